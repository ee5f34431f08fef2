"""The container of a server as data: its image, arguments and mounts."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlserve import paths
from mlserve.backend import Backend, Listen, ServerSpec
from mlserve.client.endpoint import Endpoint
from mlserve.errors import UsageError
from mlserve.launch.docker.container import (
    DRAINS_LABEL,
    HOME_LABEL,
    NAME_LABEL,
    RECORD_LABEL,
    SEAL_LABEL,
)
from mlserve.launch.private_files import seal
from mlserve.launch.records import ServerRecord, files_folder
from mlserve.options import flag_of
from mlserve.otlp import CollectorAddress
from mlserve.serving import Serving
from mlserve.settings import GRPC_PORT, REST_PORT, ServerSettings, is_loopback

_FILES = "/run/mlserve"
"""Where the user's and the launcher's files are mounted."""
_OUTSIDE = {
    "grpc_socket": "ask the container's ports",
    "rest_socket": "ask the container's ports",
    "record": "record with --launcher embedded: the container's own disk is read-only",
}
"""Settings that are for a server outside of containers, and what to do instead."""
_NAMES_FILE = re.compile("CERTIFICATE|CLIENT_KEY|_FILE")
HARDENING = (
    "--read-only",
    *("--tmpfs", "/tmp"),  # noqa: S108 - in the container
    *("--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
)


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """A container to run. `mounts` are read-only: host path by path in the container.

    `files` are texts by name, written to the server's folder first and mounted. `entrypoint` None
    keeps the image's own. The image's health check has no client certificate, so it cannot ask a
    server that requires one. `inherited` are names of our variables that it gets, too.
    """

    image: str
    argv: tuple[str, ...]
    entrypoint: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    inherited: tuple[str, ...] = ()
    mounts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    drains: bool = True
    has_healthcheck: bool = True


def server_spec(backend: Backend, serving: Serving) -> ServerSpec | None:
    """Return the third-party server's image for this; None if mlserve's own server serves it."""
    model = serving.only
    return published(backend, model.base_path, model.model, model.versions.versions)


def published(
    backend: Backend, base_path: Path, model: str, versions: Sequence[int] = ()
) -> ServerSpec | None:
    """Return a third-party server's published image that can serve the folder, or None."""
    listen = Listen("0.0.0.0", GRPC_PORT, REST_PORT)
    specs = backend.external_servers(base_path, model, versions, listen)
    return next((spec for spec in specs if spec.image is not None), None)


def plan_of_published(spec: ServerSpec, serving: Serving) -> ContainerPlan:
    """Plan a third-party server's published image with the model's folder mounted.

    Nothing has to be built, and the server sees new versions as they are exported.
    """
    assert spec.image is not None
    folder = str(files_folder(serving.name).absolute())
    mounts = {str(serving.only.base_path): spec.image.base_path}
    if spec.files:
        mounts[folder] = _FILES
    return ContainerPlan(
        image=serving.image or spec.image.name,
        argv=tuple(argument.replace("{files}", _FILES) for argument in spec.argv),
        entrypoint=spec.executable,
        env=spec.env,
        mounts=mounts,
        files=spec.files,
        drains=spec.image.drains,
    )


def plan_of_built(image: str, serving: Serving) -> ContainerPlan:
    """Plan an image of `mlserve build`: the model is inside, the settings are arguments.

    Raises UsageError for what would be inside the container: a UNIX socket, a folder to write to, a
    loopback address.
    """
    require_inside(serving)
    _require_reached(serving)
    files = {k: v for k, v in serving.settings.changed.items() if isinstance(v, Path)}
    inside: dict[str, Any] = {name: Path(_FILES) / name for name in files}
    settings = replace(serving.settings, **inside)
    return ContainerPlan(
        image=image,
        argv=(*serving.only.options.argv(), *settings.argv()),
        inherited=() if settings.otlp is None else _of_the_sdk(),
        mounts={str(path): str(inside[name]) for name, path in files.items()},
        has_healthcheck=settings.tls_client_ca is None,
    )


def _require_reached(serving: Serving) -> None:
    """Raise UsageError for a collector or a shadow at an address that is the container itself."""
    if _shares_network(serving.docker_options):
        return
    for address, flag, port in within_container(serving.settings):
        raise UsageError(
            f"{address} ({flag}) would be the container itself",
            hint=f"give the address as the container sees it, such as "
            f"http://host.docker.internal:{port} with --docker-option "
            "--add-host=host.docker.internal:host-gateway",
        )


def within_container(settings: ServerSettings) -> Iterator[tuple[str, str, int]]:
    """Yield each address that a container would ask and take for itself: its text, flag, port."""
    if settings.otlp is not None:
        collector = CollectorAddress.of(settings.otlp)
        if is_loopback(collector.host):
            yield settings.otlp, "--otlp", collector.port
    shadow = settings.rollout.shadow_endpoint
    if shadow is not None:
        server = Endpoint.parse(shadow)
        if is_loopback(server.host):
            yield shadow, "--shadow", server.port


def _shares_network(options: Sequence[str]) -> bool:
    """Return whether these options of `docker run` give the container a network of others."""
    words = " ".join(options).replace("=", " ").split()
    return any(
        name in ("--network", "--net") and value.startswith(("host", "container:"))
        for name, value in pairwise(words)
    )


def _of_the_sdk() -> tuple[str, ...]:
    """Return the variables of OpenTelemetry's SDK that are set here, but for names of files."""
    set_here = (name for name in os.environ if name.startswith("OTEL_"))
    return tuple(sorted(name for name in set_here if not _NAMES_FILE.search(name)))


def require_inside(serving: Serving) -> None:
    """Raise UsageError for a setting that makes no sense in a container."""
    for name, instead in _OUTSIDE.items():
        if name in serving.settings.changed:
            raise UsageError(
                f"{flag_of(name)} is for a server outside of containers",
                hint=f"leave it out, and {instead}",
            )


def require_mountable(plan: ContainerPlan) -> None:
    """Raise UsageError for a path that does not exist or that the engine cannot mount."""
    for path in plan.mounts:
        if not Path(path).exists():
            raise UsageError(f"there is no {path}", hint="give a file or folder that exists")
        if "," in path or '"' in path:
            raise UsageError(
                f"{path} cannot be mounted: a comma or a quote is in its name",
                hint="serve it from another folder: --path DIR",
            )


def run_options(plan: ContainerPlan, record: ServerRecord, user: str | None = None) -> list[str]:
    """Return the arguments of `docker run`; `user` is the user who reads the mounts inside."""
    text = json.dumps(record.to_json())
    labels = {
        NAME_LABEL: record.name,
        HOME_LABEL: str(paths.state_dir().absolute()),
        RECORD_LABEL: text,
        SEAL_LABEL: seal(text),
        DRAINS_LABEL: "true" if plan.drains else "false",
    }
    listen = record.listen
    arguments = ["--detach", "--name", _container_name(record.name), *HARDENING]
    address = _bind_address(listen.host)
    for port, inside in ((listen.grpc_port, GRPC_PORT), (listen.rest_port, REST_PORT)):
        arguments += ["--publish", f"{address}:{port}:{inside}"]
    for key, value in labels.items():
        arguments += ["--label", f"{key}={value}"]
    for key, value in plan.env.items():
        arguments += ["--env", f"{key}={value}"]
    for name in plan.inherited:  # no value: it may be a secret, and others see our arguments
        arguments += ["--env", name]
    for source, target in plan.mounts.items():
        arguments += ["--mount", f"type=bind,source={source},target={target},readonly"]
    if user is not None and plan.mounts:
        arguments += ["--user", user]
    if not plan.has_healthcheck:
        arguments += ["--no-healthcheck"]
    if plan.entrypoint is not None:
        arguments += ["--entrypoint", plan.entrypoint]
    # The user's options come last, because the last one given wins.
    return [*arguments, *record.serving.docker_options, plan.image, *plan.argv]


def mount_user(*, is_rootless: bool) -> str | None:
    """Return who reads the mounts: this user, whom a rootless engine calls root."""
    return "0:0" if is_rootless else f"{os.getuid()}:{os.getgid()}"


def _container_name(name: str) -> str:
    """Return a unique name: other homes on this machine may run a server of the same name."""
    readable = re.sub(r"[^a-zA-Z0-9_.-]", "-", name)
    return f"mlserve-{readable}-{secrets.token_hex(3)}"


def _bind_address(host: str) -> str:
    """Return the host as `docker run --publish` takes it: an address, IPv6 in brackets."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][4][0]
        address = ipaddress.ip_address(str(found))
    return f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004
