"""`mlserve gate calibrate`: the threshold that keeps a risk, from a labelled folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.background import run_within
from mlserve.cli import clock
from mlserve.cli.arguments import with_fields
from mlserve.cli.output import OutputFormat, OutputOption, ProgressLine, note, print_json, say
from mlserve.cli.server_choice import ServerChoice
from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, MlserveError, UsageError, counted, readable
from mlserve.gate.audit_file import now
from mlserve.gate.guarantee import Among, Guarantee, Scored, Wanted, calibrated
from mlserve.gate.identity import Identity
from mlserve.gate.policy import require_meaning, score_of

if TYPE_CHECKING:
    from mlserve.client import Client, Prediction

_LOOKING = 60.0
_DEFAULT_TIMEOUT = 30.0


@with_fields
def calibrate(
    holdout: Annotated[
        Path,
        typer.Argument(
            metavar="HOLDOUT",
            help="A folder of images that the model was not trained on. The folder that an image "
            "is in is its label, as for `mlserve predict --expect folders`.",
            show_default=False,
        ),
    ],
    *,
    risk: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="The largest share of bad parts that may be accepted, above 0 and below 1.",
            show_default=False,
        ),
    ],
    accept: Annotated[
        list[str],
        typer.Option(
            metavar="LABEL",
            help="A label to accept; repeat it for several. Parts of the others are bad.",
            show_default=False,
        ),
    ],
    delta: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Keep the risk with a confidence of 1 - SHARE over the choice of the holdout. "
            "Default: keep it on average over holdouts.",
            show_default=False,
        ),
    ] = None,
    among: Annotated[
        Among,
        typer.Option(
            help="What the risk is a share of: the bad parts, whatever share of a line they are; "
            "or all parts, for a holdout that has as many bad ones as the line has.",
        ),
    ] = Among.BAD,
    save: Annotated[
        Path, typer.Option(metavar="FILE", help="Where to write the threshold.")
    ] = Path("calibration.json"),
    choice: ServerChoice,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="The time allowed for each image, in seconds."),
    ] = _DEFAULT_TIMEOUT,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Requests in flight. Default: what the server has room for.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Find the threshold with which a gate accepts at most that share of bad parts.

    It is the least one for which conformal risk control guarantees the risk, from the answers to
    images whose label is known: without any assumption on the model, if the parts that come are as
    those of the holdout. It holds for the version of the model that answers here. A holdout that is
    too small for the risk is refused, with the number of images that it takes.

    For example:

    mlserve gate calibrate holdout/ --accept ok --risk 0.01

    mlserve gate calibrate holdout/ --accept ok --risk 0.01 --delta 0.05 --save line-3.json
    """
    for name, share in (("--risk", risk), ("--delta", delta)):
        if share is not None and not 0 < share < 1:
            raise UsageError(
                f"{name} {share:g} is not a share above 0 and below 1", hint=f"give {name} 0.01"
            )
    _require_place(save)
    deadline = Deadline.after(max(timeout, _LOOKING), since=clock.command_start())
    wanted = Wanted(tuple(sorted(set(accept))), risk, delta, among)
    names, expected = _labelled(holdout, deadline)
    bad = sum(label not in wanted.accept for label in expected.values())
    _require_labels(wanted, expected, holdout)
    wanted.require_enough(len(names), bad)
    server = choice.find(deadline)
    with server.connect() as client:
        if server.has_random_weights:
            raise InvalidInput(
                "the model has random weights, so that no threshold means anything",
                hint="export it with its own weights: mlserve export --weights FILE",
            )
        found = _asked(client, wanted, names, expected, timeout, parallel)
    found.save(save)
    if output is OutputFormat.JSON:
        print_json({"file": str(save), **found.to_json()})
    else:
        _print(found, save)


def _require_place(save: Path) -> None:
    """Raise UsageError for a file that could not be saved, before every image is asked about."""
    folder = save.absolute().parent
    if save.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"the calibration cannot be saved in {save}: "
            + ("it is a folder" if save.is_dir() else f"{folder} is no folder to write in"),
            hint="give another path with --save",
        )


def _labelled(holdout: Path, deadline: Deadline) -> tuple[Sequence[str], Mapping[str, str]]:
    """Return the images of the folder, and the label of each. Raises UsageError."""
    from mlserve.cli.expect import FOLDERS, expected_labels
    from mlserve.cli.images import gather

    if not holdout.is_dir():
        raise UsageError(
            f"the holdout {holdout} is not a folder",
            hint="give a folder with a folder of images for each label",
        )
    names = gather([str(holdout)], deadline).names
    doing = f"reading {holdout}"
    return names, run_within(
        deadline, doing, lambda: expected_labels(FOLDERS, [str(holdout)], names)
    )


def _require_labels(wanted: Wanted, expected: Mapping[str, str], holdout: Path) -> None:
    there = set(expected.values())
    for label in wanted.accept:
        if label not in there:
            shown = ", ".join(map(readable, sorted(there)[:5]))
            raise UsageError(
                f"--accept {label}: the holdout {holdout} has no folder of that name",
                hint=f"its labels are {shown}",
            )


def _asked(
    client: Client,
    wanted: Wanted,
    names: Sequence[str],
    expected: Mapping[str, str],
    timeout: float,
    parallel: int | None,
) -> Guarantee:
    """Ask about every image, and return the calibration. Raises the errors of any of them."""
    identity = _identity(client, timeout)
    digests: dict[str, str] = {}
    answers = client.predict_many(
        _contents(names, digests), parallel=parallel, timeout=timeout, top_k=None
    )
    progress = ProgressLine(len(names))
    scored = []
    try:
        for done, (name, answer) in enumerate(zip(names, answers, strict=True)):
            progress.draw(done, name)
            scored.append(_scored(name, answer, expected[name], wanted, identity))
    finally:
        progress.clear()
        answers.close()
    if _identity(client, timeout) != identity:
        raise InvalidInput("the server changed the model meanwhile", hint="calibrate again")
    if len(set(digests.values())) < len(digests):
        again = len(digests) - len(set(digests.values()))
        note(
            f"warning: {counted(again, 'image')} in the holdout are copies of others: each part "
            "should be there once, or the guarantee is weaker than it says"
        )
    listed = "".join(f"{digests[name]} {name}\n" for name in sorted(digests))
    holdout = f"sha256:{hashlib.sha256(listed.encode(errors='surrogateescape')).hexdigest()}"
    return calibrated(wanted, scored, identity, holdout=holdout, made=now())


def _contents(names: Sequence[str], digests: dict[str, str]) -> Iterator[bytes]:
    for name in names:
        try:
            content = Path(name).read_bytes()
        except OSError as error:
            raise UsageError(f"{name} cannot be read: {error.strerror}") from error
        digests[name] = hashlib.sha256(content).hexdigest()
        yield content


def _identity(client: Client, timeout: float) -> Identity:
    identity = Identity.of(client.metadata(timeout=timeout))
    if identity.artifact is None:
        raise InvalidInput(
            f"the server at {client.endpoint} does not say what the digest of its model is, so "
            "that a gate could not see that another one answers",
            hint="calibrate with a server of `mlserve up`, and a model that mlserve exported",
        )
    return identity


def _scored(
    name: str,
    answer: Prediction | MlserveError,
    expected: str,
    wanted: Wanted,
    identity: Identity,
) -> Scored:
    if isinstance(answer, MlserveError):
        answer.message = f"{readable(name)}: {answer.message}"
        raise answer
    require_meaning(answer)
    if not answer.scores:
        raise InvalidInput(
            "the server gives labels without scores, and a threshold is about scores",
            hint="export the model again with this version of mlserve",
        )
    if answer.version != identity.version:
        raise InvalidInput("the server changed the model meanwhile", hint="calibrate again")
    return Scored(expected in wanted.accept, score_of(answer, wanted.accept))


def _print(found: Guarantee, save: Path) -> None:
    what = "bad parts" if found.among is Among.BAD else "parts"
    how = "on average" if found.delta is None else f"with a confidence of {1 - found.delta:g}"
    if found.threshold is None:
        say(f"every {' or '.join(map(readable, found.accept))} is accepted, whatever its score")
    else:
        say(f"accept above {found.threshold!r}")
    say(f"guarantee: of {what}, at most {found.risk:g} are accepted falsely, {how}")
    say(f"holdout: {found.false_accepts} of {found.bad} bad ones accepted")
    if found.good_accepted is not None:
        say(f"holdout: {found.good_accepted:.1%} of {found.images - found.bad} good ones accepted")
    say(f"model: {Identity(found.model, found.version, found.artifact, None)}")
    note(f"saved in {save}: mlserve gate FILE --calibration {save}")
    if not found.good_accepted:
        note("warning: with this threshold, no good part is accepted: the scores do not tell")
