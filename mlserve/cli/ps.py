"""`mlserve ps`: list the servers that `mlserve up` started."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlserve.cli.output import OutputFormat, OutputOption, duration, note, print_json, print_table
from mlserve.errors import readable
from mlserve.load_options import LadderPolicy

if TYPE_CHECKING:
    from mlserve.client.answers import ServerLoad
    from mlserve.launch.ready import Seen
    from mlserve.launch.records import ServerRecord
    from mlserve.served_model import ServedModel
    from mlserve.wire.replicas import ReplicaSet

_HEADER = ("name", "status", "versions", "uptime", "launcher")


def ps(output: OutputOption = OutputFormat.TEXT) -> None:
    """List the servers that `mlserve up` started.

    Each is asked what runs its versions: runtime, precision and device, whether the certificate of
    the model holds there, and the processes of a model that has its own. A server whose process is
    gone is listed as dead once, and then forgotten.

    For example:

    mlserve ps

    mlserve ps --output json
    """
    from mlserve.launch.ready import Seen, load_of, see
    from mlserve.launch.replicas import replicas_if_told
    from mlserve.launch.running import reconcile

    alive, dead = reconcile()
    seen = [see(record) for record in alive] + [Seen(record, "dead") for record in dead]
    runs = [load_of(item.record) if item.status == "ready" else None for item in seen]
    sets = [replicas_if_told(item.record) if item.status == "ready" else None for item in seen]
    if output is OutputFormat.JSON:
        print_json([_as_json(*each) for each in zip(seen, runs, sets, strict=True)])
        return
    if not seen:
        note("no server is running; start one: mlserve up")
        return
    rows = [_row(item.record, item.status) for item in seen]
    below = [
        _below(item.record, load, replicas)
        for item, load, replicas in zip(seen, runs, sets, strict=True)
    ]
    print_table(_HEADER, rows, below)
    for item in seen:
        if item.why:
            note(f"{item.record.name} is {item.status}: {item.why}")
        if item.record.refusal:
            note(readable(item.record.refusal))
    for record in dead:
        note(f"{record.name} ({record.identity}) is gone; its log: mlserve logs {record.name}")


def _row(record: ServerRecord, status: str) -> list[str]:
    from mlserve.launch.running import server_of

    since = "-" if status == "dead" else duration(server_of(record).uptime())
    models = record.serving.models
    versions = _versions(record, models[0]) if len(models) == 1 else f"{len(models)} models"
    return [record.name, status, versions, since, record.launcher]


def _below(record: ServerRecord, load: ServerLoad | None, replicas: ReplicaSet | None) -> list[str]:
    where = f"grpc {record.grpc_endpoint}  rest {record.rest_endpoint}  {record.identity}"
    serving, processes = ((), ()) if load is None else (load.serving, load.processes)
    answers = [f"{each.model} version {each.version}: {each.by}" for each in serving]
    answers += [f"processes: {each}" for each in processes]
    whole = [] if replicas is None else [f"replicas: {replicas}"]
    return [*_models(record), *_ladders(record), *answers, *whole, where, _meaning(record)]


def _models(record: ServerRecord) -> list[str]:
    """Return a line for each model of a server whose name does not say them."""
    if record.serving.config is None:
        return []
    return [
        f"{model.model} ({model.backend}) {_versions(record, model)}"
        for model in record.serving.models
    ]


def _ladders(record: ServerRecord) -> list[str]:
    options = [model.options for model in record.serving.models]
    return [
        f"ladder {each.ladder}; uncertain answers: {each.ladder_policy or LadderPolicy.REFUSE}"
        for each in options
        if each.ladder is not None
    ]


def _meaning(record: ServerRecord) -> str:
    random = [model.model for model in record.serving.models if model.has_random_weights]
    if not random:
        return ""
    if record.serving.config is None:
        return "random weights: its answers mean nothing"
    return f"random weights, so that the answers mean nothing: {', '.join(random)}"


def _as_json(seen: Seen, load: ServerLoad | None, replicas: ReplicaSet | None) -> dict[str, Any]:
    from mlserve.launch.running import server_of

    record, status = seen.record, seen.status
    return record.to_json() | {
        "status": status,
        "why": seen.why or None,
        "models": [model.to_json() for model in record.serving.models],
        "answers": [] if load is None else [asdict(each) for each in load.serving],
        "processes": [] if load is None else [asdict(each) for each in load.processes],
        "replicas": None if replicas is None else replicas.to_json(),
        "config_problem": record.refusal or None,
        "grpc": record.grpc_endpoint,
        "rest": record.rest_endpoint,
        "uptime_s": None if status == "dead" else round(server_of(record).uptime()),
    }


def _versions(record: ServerRecord, model: ServedModel) -> str:
    from mlserve.launch.served import Use

    versions, pin = model.versions, Use(record, model).pin
    if versions.serves_all:
        return "all"
    if pin is not None:
        return f"{pin} (pinned)"
    return ",".join(map(str, versions.versions)) or "latest"
