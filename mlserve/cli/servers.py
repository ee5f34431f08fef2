"""`mlserve down`, `ps` and `logs`: the servers that `mlserve up` started."""

from __future__ import annotations

import sys
from codecs import getincrementaldecoder
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve.cli.output import OutputFormat, OutputOption, note, print_json, print_table, say
from mlserve.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from mlserve.launch.ready import Seen
    from mlserve.launch.records import ServerRecord

_HEADER = ("name", "status", "versions", "uptime", "launcher")
NameArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="The server's name, as `mlserve ps` lists it. Default: the only one.",
        show_default=False,
    ),
]


def down(
    name: NameArgument = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Stop the server of this backend.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Stop the server of this model.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Stop all servers.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Seconds to let it finish its requests before it is killed. Default: a little "
            "more than its own --drain-timeout.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Stop a server after it has answered the requests that it accepted.

    If no server is running, that is not an error. A third-party server would drop the requests it
    is working on, so it is stopped once no client is connected to it; where that cannot be seen, as
    in a container, after 10 seconds. Until then `mlserve predict` sends it no new ones.

    For example:

    mlserve down

    mlserve down --all --timeout 30
    """
    from mlserve.cli.output import StatusLine
    from mlserve.deadline import check_seconds
    from mlserve.launch.down import chosen, stop_all
    from mlserve.launch.running import reconcile

    if timeout is not None:
        check_seconds("--timeout", timeout)
    records = reconcile()[0] if every else chosen(name=name, backend=backend, model=model)
    if not records:
        note("no server is running")
    line, done = StatusLine(), []
    try:
        for stopped in stop_all(records, timeout, line.show):
            line.clear()
            done.append({"name": stopped.record.name, "was_killed": stopped.was_killed})
            if stopped.was_killed:
                allowed = f"{stopped.allowed:g} s"
                note(f"{stopped.record.name} did not end within {allowed}: it was killed")
            if output is OutputFormat.TEXT:
                say(f"{stopped.record.name} is stopped")
    finally:
        line.clear()
    if output is OutputFormat.JSON:
        print_json(done)


def ps(output: OutputOption = OutputFormat.TEXT) -> None:
    """List the servers that `mlserve up` started.

    A server whose process is gone is listed as dead once, and then forgotten.

    For example:

    mlserve ps --output json
    """
    from mlserve.launch.ready import Seen, see
    from mlserve.launch.running import reconcile

    alive, dead = reconcile()
    seen = [see(record) for record in alive] + [Seen(record, "dead") for record in dead]
    if output is OutputFormat.JSON:
        print_json([_as_json(item) for item in seen])
        return
    listed = [(item.record, item.status) for item in seen]
    if not listed:
        note("no server is running; start one: mlserve up")
        return
    rows = [_row(record, status) for record, status in listed]
    print_table(_HEADER, rows, [_below(record) for record, _ in listed])
    for item in seen:
        if item.why:
            note(f"{item.record.name} is {item.status}: {item.why}")
    for record in dead:
        note(f"{record.name} ({record.identity}) is gone; its log: mlserve logs {record.name}")


def logs(
    name: NameArgument = None,
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
    """Writes a log as it is, but for a terminal, which must not obey what strangers put into it."""
    decoder = getincrementaldecoder("utf-8")("backslashreplace")
    for chunk in chunks:
        if sys.stdout.isatty():
            say(decoder.decode(chunk), end="")
        else:
            sys.stdout.buffer.write(chunk)
        sys.stdout.flush()


def _log_of(name: str | None) -> tuple[ServerRecord | None, Path]:
    """The log to show, with the record of the server that still writes to it."""
    from mlserve.launch.logs import log_path, newest
    from mlserve.launch.records import select
    from mlserve.launch.running import reconcile

    alive, _ = reconcile()
    try:
        record = select(alive, name=name, choose="mlserve logs")
    except Unavailable:
        path = log_path(name) if name else newest()
        if path is None or not path.exists():
            raise
        note(f"{path.stem} is not running; this is the log it left")
        return None, path
    if record.log is None:
        raise NotFound(
            f"{record.name} runs in the foreground and has no log file",
            hint="its log is on the terminal that it was started in",
        )
    return record, record.log


def _versions(record: ServerRecord) -> str:
    versions = record.serving.versions
    if versions.serves_all:
        return "all"
    return ",".join(map(str, versions.versions)) or "latest"


def _row(record: ServerRecord, status: str) -> list[str]:
    from mlserve.launch.running import server_of

    since = "-" if status == "dead" else _duration(server_of(record).uptime())
    return [record.name, status, _versions(record), since, record.launcher]


def _below(record: ServerRecord) -> list[str]:
    where = f"grpc {record.grpc_endpoint}  rest {record.rest_endpoint}  {record.identity}"
    meaning = (
        "random weights: its answers mean nothing" if record.serving.has_random_weights else ""
    )
    return [where, meaning]


def _as_json(seen: Seen) -> dict[str, Any]:
    from mlserve.launch.running import server_of

    record, status = seen.record, seen.status
    return record.to_json() | {
        "status": status,
        "why": seen.why or None,
        "grpc": record.grpc_endpoint,
        "rest": record.rest_endpoint,
        "uptime_s": None if status == "dead" else round(server_of(record).uptime()),
    }


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"
