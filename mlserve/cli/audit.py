"""`mlserve audit`: what a server's admission cost, beside a scheduler that knows everything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli import clock
from mlserve.cli.arguments import with_fields
from mlserve.cli.output import OutputFormat, OutputOption, note, print_json, print_wrapped, say
from mlserve.cli.server_choice import ServerChoice, TimeoutOption
from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, UsageError
from mlserve.options import flag_of
from mlserve.replacing import replacing

if TYPE_CHECKING:
    from mlserve.admission.recording import Recording
    from mlserve.admission.verdicts import Refusal
    from mlserve.audit.regret import Audit, Work

_PATIENCE = 30.0
"""Seconds that a busy server may take to write down what it remembers."""


@with_fields
def audit(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Decisions that were saved with --save. Default: those of the running server.",
            show_default=False,
        ),
    ] = None,
    *,
    choice: ServerChoice,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the decisions, for a later `mlserve audit FILE`."),
    ] = None,
    timeout: TimeoutOption = _PATIENCE,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Tell how well a server chose the calls that it let in.

    The last 20,000 calls are run again on this machine, on a clock of their own: by a scheduler
    that knows beforehand how long each takes and when its caller leaves, and by the server's own
    admission. The regret is what the first answers and the server did not.

    For example:

    mlserve audit

    mlserve audit --save monday.json

    mlserve audit monday.json
    """
    from mlserve.audit.regret import audit as audit_of

    if file is not None:
        _require_no_server(ctx, file)
    deadline = Deadline.after(timeout, since=clock.command_start())
    recording = _ask(choice, deadline) if file is None else _read(file)
    if save is not None:
        _save(save, recording)
    found = audit_of(recording)
    if output is OutputFormat.JSON:
        print_json(found.to_json())
        return
    _print(found)


def _require_no_server(ctx: typer.Context, file: Path) -> None:
    """Raise UsageError for a flag that names a server, beside a file that is read in its place."""
    for option in fields(ServerChoice):
        source = ctx.get_parameter_source(option.name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"{flag_of(option.name)} is for a server, and {file} is a file with the decisions",
                hint="give one of the two",
            )


def _ask(choice: ServerChoice, deadline: Deadline) -> Recording:
    server = choice.find_each(deadline)[0]
    if server.replicas_at is not None:
        note(
            "these are the decisions of one replica; --endpoint asks another at its own address, "
            "which `mlserve status` shows"
        )
    with server.connect() as client:
        return client.decisions(timeout=deadline)


def _read(file: Path) -> Recording:
    """Return the decisions in a file. Raises UsageError, InvalidInput."""
    from mlserve.admission.recording import Recording

    try:
        return Recording.from_json(json.loads(file.read_bytes()))
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror or error}",
            hint="give a file that `mlserve audit --save FILE` wrote",
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{file} has no decisions of a server: {error}",
            hint="give a file that `mlserve audit --save FILE` wrote",
        ) from error


def _save(file: Path, recording: Recording) -> None:
    try:
        with replacing(file) as written:
            written.writelines(recording.pieces())
    except OSError as error:
        raise UsageError(
            f"the decisions cannot be saved in {file}: {error.strerror or error}",
            hint="give another path with --save",
        ) from error
    note(f"saved {len(recording.decisions)} decisions in {file}")


def _print(found: Audit) -> None:
    say(f"{found.calls} calls in {found.seconds:.1f} s; the server worked {found.busy:.0%} of them")
    lines = [
        ("answered", found.answered.calls, ""),
        ("failed", found.failed.calls, ""),
        ("refused on arrival", sum(found.refused.values()), _reasons(found.refused)),
        ("taken out of the queue", sum(found.taken_out.values()), _reasons(found.taken_out)),
        ("run in vain", found.in_vain.calls, _in_vain(found.in_vain, found.wasted)),
    ]
    for what, count, more in lines:
        if count or what == "answered":
            share = f"{count / max(found.calls, 1):.1%}"
            begin = f"  {what:<22}  {count:>7}  {share:>6}  "
            print_wrapped(more, " " * len(begin), first=begin)
    say()
    print_wrapped(_beside_the_clairvoyant(found), "")
    print_wrapped(
        f"In the replay, the same admission answers {found.replayed}: the closer that is to "
        f"{found.answered.calls}, the more the regret says.",
        "",
    )


def _beside_the_clairvoyant(found: Audit) -> str:
    best = f"A scheduler that knows everything beforehand would have answered {found.clairvoyant}"
    if not found.regretted:
        return f"{best}, and so no more. The regret is 0."
    unserved = sum(found.refused.values()) + sum(found.taken_out.values()) + found.in_vain.calls
    return (
        f"{best}, {found.regretted} more. That is {found.regretted / max(unserved, 1):.1%} of the "
        f"{unserved} that got no answer in time, and the regret is {found.regret:.1%} of what "
        "could be had."
    )


def _reasons(counts: Mapping[Refusal, int]) -> str:
    return ", ".join(f"{why.replace('_', ' ')} {count}" for why, count in counts.items())


def _in_vain(work: Work, wasted: float) -> str:
    return f"{wasted:.1%} of the work" if work.calls else ""
