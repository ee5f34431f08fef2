"""`mlserve certify`: check here that exported models answer as their certificates say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli import completion
from mlserve.cli.arguments import StoreOption, require_none_of
from mlserve.cli.model_arguments import BackendFilter, ModelFilter, complete_model
from mlserve.cli.output import (
    OutputFormat,
    OutputOption,
    ProgressLine,
    ReportOption,
    StatusLine,
    note,
    print_json,
    print_wrapped,
    require_writable,
    write_report,
)
from mlserve.cli.repeat import command_line
from mlserve.errors import ExitCode, MlserveError, NotFound, UsageError, counted

if TYPE_CHECKING:
    from mlserve.certify.files import Files
    from mlserve.certify.result import Certified
    from mlserve.certify.subjects import Subject

_LOOKING = 30.0
"""Seconds that listing the folders may take."""


def certify(
    ctx: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...",
            help="Your own image files or folders, or tables (.csv, .tsv, .jsonl, .json, .npy, "
            ".npz): how many of their labels could change, and with --against how many do.",
            show_default=False,
        ),
    ] = None,
    backend: BackendFilter = None,
    model: ModelFilter = None,
    version: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="The version. Default: the pinned one or the latest.",
            autocompletion=completion.versions,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="[BACKEND/]MODEL[@VERSION]",
            help="The exported version whose answers to the files are the right ones.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|URL",
            help="Ask this server, in place of one that is started here. It is held to the "
            "certificate of the version that --backend, --model and --version name.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --endpoint: file with the server's token."),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --endpoint: PEM file with the authority (CA) that signed its certificate.",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="The time allowed for each question, in seconds."),
    ] = 30.0,
    store: StoreOption = None,
    output: OutputOption = OutputFormat.TEXT,
    report: ReportOption = None,
) -> None:
    """Check here that exported models answer as their certificates say, and say how sure that is.

    Each version is served by a server that is started for it, and asked its golden questions: what
    the training framework answered is kept with the model. It holds if no difference is above the
    tolerance, and no label is another one. Without --backend, every backend's version is checked.

    Of two scores, each can move by the largest change that was found. So a label can change only
    where the two best are closer than twice that: with image files, it says for how many of them
    that is so. With --against, the answers to the files are compared with another version's.

    Exit codes: 0 all that were checked hold, 8 one does not, or does not answer, 130 interrupted:
    what was checked until then is told; others as for `mlserve up` and `mlserve predict`.

    For example:

    mlserve certify

    mlserve certify --model inception_v3 photos/

    mlserve certify --backend onnxruntime --against tfserving/inception_v3@1 photos/

    mlserve certify --report report.html

    mlserve certify --model inception_v3 --endpoint gpu-host:8500
    """
    from mlserve.certify.run import Question
    from mlserve.certify.run import certify as certified
    from mlserve.certify.subjects import only_one, require_one_model, subject_named, subjects

    if against is not None and not files:
        raise UsageError(
            "--against compares the answers to files, and none is given",
            hint="give images or tables; without --against, the golden inputs are asked about",
        )
    if endpoint is None:
        require_none_of(
            ("--token-file", token_file),
            ("--tls-ca", tls_ca),
            why="is for a server, and none is named: one would be started here",
            hint="name it with --endpoint, or leave the option out",
        )
    if report is not None:
        require_writable(report)
    other = None if against is None else subject_named(against, store)
    named = model if model is not None or other is None else other.target.model
    found = subjects(store, backend=backend, model=named, version=version)
    if endpoint is not None:
        found = [_at(only_one(found, endpoint), endpoint, token_file, tls_ca, timeout)]
    elif other is not None:
        found = _others(found, other)
    if files:
        require_one_model(found)
    results: list[Certified] = []
    with _progress() as progress, _interrupted_late(results):
        asked = None if not files else _files(files, found, other, timeout, progress)
        for result in certified(found, other, Question(asked, timeout, progress)):
            progress.clear()
            results.append(result)
            if output is OutputFormat.TEXT:
                _print(result)
    if report is not None:
        from mlserve.certify.report import page

        write_report(report, page(results, command_line(ctx)))
    _end(results, len(found), output)


@contextmanager
def _interrupted_late(results: list[Certified]) -> Iterator[None]:
    """Let Ctrl-C end the block, and not the command, once there are results to tell."""
    try:
        yield
    except KeyboardInterrupt:
        if not results:
            raise


def _end(results: list[Certified], asked: int, output: OutputFormat) -> None:
    """Print the data, and end with the exit code; `asked` versions were to be checked."""
    from mlserve.certify.result import Outcome

    outcomes = {result.outcome for result in results}
    is_wrong, is_whole = bool(outcomes & {Outcome.DRIFTED, Outcome.FAILED}), len(results) == asked
    if output is OutputFormat.JSON:
        holds = is_whole and not is_wrong and Outcome.HOLDS in outcomes
        versions = [result.to_json() for result in results]
        print_json({"holds": holds, "is_whole": is_whole, "versions": versions})
    if not is_whole:
        note(f"interrupted after {len(results)} of {counted(asked, 'version')}")
        raise typer.Exit(int(ExitCode.INTERRUPTED))
    if is_wrong:
        raise typer.Exit(int(ExitCode.DIFFERENT))
    if outcomes == {Outcome.NOT_CHECKED}:
        raise NotFound("nothing could be checked", hint=results[0].hint)


def _others(found: list[Subject], other: Subject) -> list[Subject]:
    """Return the versions without the one that they are compared with."""
    left = [each for each in found if str(each.version) != str(other.version)]
    if not left:
        raise UsageError(
            f"{other.version} would be compared with itself",
            hint="name another version with --backend, --model or --version",
        )
    return left


def _at(
    found: Subject,
    endpoint: str,
    token_file: Path | None,
    tls_ca: Path | None,
    timeout: float,
) -> Subject:
    """Return the endpoint in place of the version, asked for the version of the same number.

    A server may have given the version another number: then it is asked for its own choice.
    """
    from mlserve.cli.server_choice import ServerChoice
    from mlserve.deadline import Deadline

    choice = ServerChoice(endpoint, model=found.target.model, token_file=token_file, tls_ca=tls_ca)
    server = choice.find(Deadline.after(_LOOKING))
    number = found.version.artifact.version
    try:
        with server.connect() as client:
            served = {row.version for row in client.status(timeout=timeout) if row.is_available}
    except MlserveError:  # what is wrong is told when it is asked
        return found.at(endpoint, server.options)
    if number in served:
        return found.at(endpoint, {**server.options, "version": number})
    there = ", ".join(str(each) for each in sorted(filter(None, served))) or "none that it names"
    note(f"{endpoint} has no version {number} (there: {there}): it is asked for its own choice")
    return found.at(endpoint, server.options)


def _files(
    files: list[str],
    found: list[Subject],
    other: Subject | None,
    timeout: float,
    progress: _Progress,
) -> Files:
    """Return the question in the files. Raises UsageError for those that a model does not take."""
    from mlserve.background import run_within
    from mlserve.certify.files import ImageFiles, TableFiles
    from mlserve.cli.images import gather
    from mlserve.compare.rows import question_in
    from mlserve.deadline import Deadline
    from mlserve.rows.kinds import tables_among

    looking, tables = Deadline.after(_LOOKING), tables_among(files)
    if not tables:
        names = gather(files, looking).names
        _require_kind(found, names[0], takes_images=True)
        return ImageFiles(names, timeout)
    _require_kind(found, tables[0][0], takes_images=False)
    if other is None:
        raise UsageError(
            "rows say nothing about a model alone: another version must answer them too",
            hint="name it, for example --against tfserving/m@1",
        )
    question = run_within(looking, "reading the tables", lambda: question_in(tables, None, None))
    return TableFiles(question, timeout, progress.note)


def _require_kind(found: list[Subject], file: str, *, takes_images: bool) -> None:
    for subject in found:
        if subject.version.artifact.manifest is not None and subject.takes_images != takes_images:
            kind = "an image classifier" if subject.takes_images else "a model of tensors"
            raise UsageError(
                f"{subject.version} is {kind}, and {file} is not what it takes",
                hint="give images or folders" if subject.takes_images else "give rows: rows.csv",
            )


def _print(result: Certified) -> None:
    for line in result.lines():
        indent = line[: len(line) - len(line.lstrip())]
        print_wrapped(line.lstrip(), f"{indent}  ", first=indent)


class _Progress:
    """Shows the current step as one line on a terminal."""

    def __init__(self) -> None:
        self._line = StatusLine()

    def __call__(self, doing: str, done: int, total: int, name: str) -> None:
        if total:
            ProgressLine(total).draw(done, f"{doing}: {name}")
        else:
            self._line.show(f"{doing}: {name}")

    def note(self, text: str) -> None:
        """Print a note in place of the line."""
        self.clear()
        note(text)

    def clear(self) -> None:
        """Clear the line."""
        self._line.clear()


@contextmanager
def _progress() -> Iterator[_Progress]:
    progress = _Progress()
    try:
        yield progress
    finally:
        progress.clear()
