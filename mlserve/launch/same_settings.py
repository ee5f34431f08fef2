"""Whether a server that runs is the one that `mlserve up` asks for, and in what it differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlserve.errors import UsageError
from mlserve.launch.ports import PortRequest
from mlserve.launch.records import ServerRecord
from mlserve.options import Options, described
from mlserve.served_model import ServedModel
from mlserve.serving import Serving
from mlserve.settings import AUTO
from mlserve.store import VersionPolicy


def require_same_settings(
    asked: Serving, at: PortRequest, launcher: str, running: ServerRecord
) -> None:
    """Raise UsageError, which names each difference, if the server that runs is another one.

    `image` None, ports that are not given and the launcher `auto` accept any.
    """
    differences = [
        f"{name} is {here} here and {there} there"
        for name, here, there in (
            *_of_what_is_served(asked, running.serving),
            *_of_where(at, launcher, running),
        )
    ]
    if not differences and asked.is_served_by(running.serving):
        return
    told = "; ".join(differences) or "see mlserve ps"
    same = "leave out what differs"
    if asked.config is not None:
        same = "settings of a server other than its models hold from its start"
    raise UsageError(
        f"{running.name} is already running with other settings: {told}",
        hint=f"{same}, or stop it first: mlserve down {running.name}",
    )


_Difference = tuple[str, object, object]


def _of_what_is_served(asked: Serving, running: Serving) -> Iterator[_Difference]:
    if asked.config != running.config:
        yield "the configuration file", _file(asked), _file(running)
    elif asked.config is None:
        yield from _of_models(asked.only, running.only)
    yield from _of_options(asked.settings, running.settings)
    yield from _of_options(asked.cluster, running.cluster)
    if asked.image not in (None, running.image):
        yield "--image", asked.image, running.image or "the usual one"
    if asked.docker_options != running.docker_options:
        yield "--docker-option", _words(asked.docker_options), _words(running.docker_options)


def _of_models(asked: ServedModel, running: ServedModel) -> Iterator[_Difference]:
    if (asked.backend, asked.model) != (running.backend, running.model):
        yield "the model", _name(asked), _name(running)
    if asked.base_path != running.base_path:
        yield "the model's folder", asked.base_path, running.base_path
    here, there = _versions(asked.versions), _versions(running.versions)
    if here != there:
        yield "--version", here, there
    yield from _of_options(asked.options, running.options)
    yield from _of_options(asked.rollout, running.rollout)


def _of_options(asked: Options, running: Options) -> Iterator[_Difference]:
    for each in described(type(asked)):
        here, there = getattr(asked, each.name), getattr(running, each.name)
        if here != there:
            yield each.flag, _shown(here), _shown(there)


def _of_where(at: PortRequest, launcher: str, running: ServerRecord) -> Iterator[_Difference]:
    listen = running.listen
    if at.host != listen.host:
        yield "--host", at.host, listen.host
    if at.grpc and at.grpc != listen.grpc_port:
        yield "--grpc-port", at.grpc, listen.grpc_port
    if at.rest and at.rest != listen.rest_port:
        yield "--rest-port", at.rest, listen.rest_port
    if launcher not in (AUTO, running.launcher):
        yield "--launcher", launcher, running.launcher


def _name(model: ServedModel) -> str:
    return f"{model.backend}/{model.model}"


def _file(serving: Serving) -> object:
    return "none" if serving.config is None else serving.config.path


def _versions(policy: VersionPolicy) -> str:
    if policy.serves_all:
        return "all"
    return ", ".join(map(str, policy.versions)) or "the pinned or latest one"


def _words(options: tuple[str, ...]) -> str:
    return " ".join(options) or "none"


def _shown(value: Any) -> object:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not given" if value is None else value
