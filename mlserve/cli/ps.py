"""`mlserve ps`: list the servers that `mlserve up` started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlserve.cli.output import OutputFormat, OutputOption, duration, note, print_json, print_table

if TYPE_CHECKING:
    from mlserve.launch.ready import Seen
    from mlserve.launch.records import ServerRecord

_HEADER = ("name", "status", "versions", "uptime", "launcher")


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


def _row(record: ServerRecord, status: str) -> list[str]:
    from mlserve.launch.running import server_of

    since = "-" if status == "dead" else duration(server_of(record).uptime())
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


def _versions(record: ServerRecord) -> str:
    from mlserve.launch.served import pin_of

    versions, pin = record.serving.versions, pin_of(record)
    if versions.serves_all:
        return "all"
    if pin is not None:
        return f"{pin} (pinned)"
    return ",".join(map(str, versions.versions)) or "latest"
