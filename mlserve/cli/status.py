"""`mlserve status`: show the versions of a server's models and their states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlserve.cli import clock
from mlserve.cli.arguments import with_fields
from mlserve.cli.output import OutputFormat, OutputOption, note, print_json, print_table, say
from mlserve.cli.server_choice import (
    FoundServer,
    ServerChoice,
    TimeoutOption,
    address_json,
)
from mlserve.client import Client, ServerLoad
from mlserve.client.client import DEFAULT_TIMEOUT
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, Unavailable, readable
from mlserve.wire.rollouts import Rollouts

if TYPE_CHECKING:
    from mlserve.client.answers import CallerPatience, VersionStatus
    from mlserve.wire.replicas import Replica, ReplicaSet

    Versions = tuple[VersionStatus, ...]

_REPLICA_HEADER = ("replica", "state", "versions", "in flight", "wait", "refused", "requests")
_OLD = ("AVAILABLE", "END")
"""States of versions that are not shown beside those that a replica answers with."""
_COMING = ("START", "LOADING")
"""States of versions that are on their way to AVAILABLE."""


@with_fields
def status(
    *,
    choice: ServerChoice,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show the versions of a server's models, whether they are ready, and the server's load.

    Of a server of several models, --model shows one. If the server follows a file that it has
    refused, this says why. Of a server of several replicas, it shows the whole and each replica; a
    server that is named by --endpoint tells of them over REST only. Of a shadow and a split, it
    shows what they have shown so far, with the latest requests that were answered otherwise.

    Exit codes: 0 a version of each model shown is AVAILABLE, 5 none is, so that this can serve as a
    probe.

    For example:

    mlserve status

    mlserve status --endpoint http://127.0.0.1:8501 --model inception_v3
    """
    deadline = Deadline.after(timeout, since=clock.command_start())
    found = choice.find_each(deadline)
    seen: dict[str, Versions] = {}
    for server in found:
        with server.connect() as client:
            versions = client.status(timeout=deadline)
            seen[client.model or ""] = versions
            load = _load(client, deadline) if server is found[-1] else None
            rollouts = _rollouts(client, deadline) if server is found[-1] else None
    replicas = _replicas(found[-1], deadline)
    refusal = found[-1].refusal
    if output is OutputFormat.JSON:
        told = (rollouts or Rollouts()).to_json()
        print_json(_as_json(seen, load, replicas, refusal) | told | address_json(client))
    else:
        _print(seen, load, replicas)
        for line in () if rollouts is None else rollouts.lines():
            say(line)
        if refusal:
            say(readable(refusal))
    absent = [name for name, rows in seen.items() if not any(map(_is_served, rows))]
    if absent:
        models, version = ", ".join(absent), choice.version
        why = (
            f"no version of {models} is available"
            if version is None
            else f"version {version} of {models} is not available"
        )
        is_coming = any(row.state in _COMING for name in absent for row in seen[name])
        raise Unavailable(
            f"{why} at {client.endpoint}",
            hint="it is still being loaded: ask again in a moment"
            if is_coming
            else "see why with mlserve logs (or the log of that server)",
        )


def _print(seen: dict[str, Versions], load: ServerLoad | None, replicas: ReplicaSet | None) -> None:
    table = [
        [model, _shown(row.version), row.state, readable(row.error)]
        for model, rows in seen.items()
        for row in rows
    ]
    header, skipped = ["model", "version", "state", "error"], 0 if len(seen) > 1 else 1
    print_table(header[skipped:], [row[skipped:] for row in table])
    if load is not None:
        say(f"load: {load}" if replicas is None else f"load of the replica that answered: {load}")
        for serving in load.serving:
            say(f"answers: {serving}")
            if serving.fault:
                say(f"WARNING: {serving.fault}")
        for processes in load.processes:
            say(f"processes: {processes}")
        for ladder in load.ladders:
            say(f"ladder: {ladder}")
        for kind in _told(load.patience):
            say(f"patience: {kind}")
        if load.recording is not None:
            say(f"{'WARNING: ' * bool(load.recording.problem)}recording: {load.recording}")
    if replicas is not None:
        _print_replicas(replicas)


def _print_replicas(found: ReplicaSet) -> None:
    least, most, counts = found.scale.least, found.scale.most, found.ingress
    range_ = "" if least == most else f", {least} to {most} by the load"
    say(f"replicas: {found}{range_}")
    if found.rolling is not None and found.rolling.state != "done":
        say(f"version {found.rolling.version}: {readable(str(found.rolling))}")
    say(
        f"requests: {counts.requests} since the start, {counts.redispatched} asked again at "
        f"another replica, {counts.hedged} at two, {counts.refused} refused"
    )
    rows = [_replica_row(each) for each in found.replicas]
    print_table(_REPLICA_HEADER, rows, [list(_below(each)) for each in found.replicas])


def _below(replica: Replica) -> Iterator[str]:
    yield readable(f"{replica.node} at {replica.address}")
    for each in replica.versions:
        if each.error:
            yield readable(f"version {each.version}: {each.error}")


def _replica_row(replica: Replica) -> list[str]:
    served = ",".join(map(str, sorted(replica.available)))
    others = [f"{each.version} {each.state}" for each in replica.versions if each.state not in _OLD]
    return [
        readable(replica.id),
        replica.state,
        ", ".join([*([served] if served else []), *map(readable, others)]) or "-",
        str(replica.in_flight),
        f"{replica.wait_seconds:.3f} s",
        str(replica.refused),
        str(replica.requests),
    ]


def _told(seen: Sequence[CallerPatience]) -> Iterator[CallerPatience]:
    """Yield the kinds of caller that hang up, without those of which a coarser one says as much."""
    said = set[tuple[str, float]]()
    for kind in seen:
        what = kind.transport, kind.seconds
        if kind.is_known and kind.transport and what not in said:
            said.add(what)
            yield kind


def _as_json(
    seen: dict[str, Versions], load: ServerLoad | None, replicas: ReplicaSet | None, refusal: str
) -> dict[str, Any]:
    models = [
        {"model": model, "versions": [row.to_json() for row in rows]}
        for model, rows in seen.items()
    ]
    return {
        **(models[0] if len(models) == 1 else {}),
        "models": models,
        "load": None if load is None else load.to_json(),
        "replicas": None if replicas is None else replicas.to_json(),
        "config_problem": refusal or None,
    }


def _load(client: Client, deadline: Deadline) -> ServerLoad | None:
    """Return the server's load; None if that fails, because the states are the actual answer."""
    try:
        return client.load(timeout=deadline)
    except MlserveError:
        return None


def _rollouts(client: Client, deadline: Deadline) -> Rollouts | None:
    """Return what shadows and splits have shown; None from a server that does not tell."""
    try:
        return client.rollouts(timeout=deadline)
    except MlserveError:
        return None


def _replicas(server: FoundServer, deadline: Deadline) -> ReplicaSet | None:
    """Return the replicas; None if the server has none, or a gRPC endpoint was named."""
    at = replace(server, endpoint=server.replicas_at or server.endpoint, protocol=None)
    with at.connect() as client:
        if client.endpoint.protocol == "grpc":
            return None
        try:
            return client.replicas(timeout=deadline)
        except MlserveError as error:
            if server.replicas_at is not None:
                note(f"the replicas are not known: {error.message}")
            return None


def _is_served(row: VersionStatus) -> bool:
    """Return whether requests are answered: a version with an error has drifted."""
    return row.is_available and not row.error


def _shown(version: int | None) -> str:
    return "?" if version is None else str(version)
