"""`mlserve logs`: show the log of a running or ended server."""

from __future__ import annotations

import sys
from codecs import getincrementaldecoder
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli import completion
from mlserve.cli.arguments import server_name
from mlserve.cli.output import note, say
from mlserve.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from mlserve.launch.records import ServerRecord


def logs(
    name: Annotated[str | None, server_name(completion.logged)] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new lines while the server runs.")
    ] = False,
    tail: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Print only the last N lines. Default: all."),
    ] = None,
) -> None:
    """Show the log of a server, even if it is no longer running.

    For example:

    mlserve logs

    mlserve logs --follow --tail 20
    """
    from mlserve.launch.logs import follow as read_log
    from mlserve.launch.running import server_of

    record, path = _log_of(name)
    try:
        if record is None:
            _write(read_log(path, tail, lambda: False))
        else:
            _write(server_of(record).log(tail, follows=follow))
    except OSError as error:
        raise NotFound(
            f"the log {path} cannot be read: {error.strerror}", hint="`mlserve ps` lists servers"
        ) from error


def _write(chunks: Iterable[bytes]) -> None:
    """Write a log unchanged, but escape it on a terminal, which must not obey strangers' text."""
    decoder = getincrementaldecoder("utf-8")("backslashreplace")
    for chunk in chunks:
        if sys.stdout.isatty():
            say(decoder.decode(chunk), end="")
        else:
            sys.stdout.buffer.write(chunk)
        sys.stdout.flush()


def _log_of(name: str | None) -> tuple[ServerRecord | None, Path]:
    """Return the log to show, with the record of the server that still writes to it."""
    from mlserve.hints import nearest
    from mlserve.launch.logs import log_path, names, newest
    from mlserve.launch.records import select
    from mlserve.launch.running import reconcile

    alive, _ = reconcile()
    try:
        record = select(alive, name=name, choose="mlserve logs")
    except Unavailable as error:
        path = log_path(name) if name else newest()
        if path is None or not path.exists():
            meant = nearest(name, names()) if name else None
            if meant is not None and all(meant != each.name for each in alive):
                error.hint = f"did you mean mlserve logs {meant}, which left a log? {error.hint}"
            raise
        note(f"{path.stem} is not running; this is the log it left")
        return None, path
    if record.log is None:
        raise NotFound(
            f"{record.name} runs in the foreground and has no log file",
            hint="its log is on the terminal that it was started in",
        )
    return record, record.log
