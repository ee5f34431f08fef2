"""The command line of the front: the flags of `mlserve.server`, and those of the cluster."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlserve.cluster_options import ClusterOptions
from mlserve.credentials import read_file, tokens_of
from mlserve.errors import UsageError
from mlserve.options import add_flags, flag_of
from mlserve.server.__main__ import parse as parse_server
from mlserve.server.app import ServerOptions
from mlserve.server.models.versions import ModelSpec
from mlserve.settings import ModelControl, ServerSettings
from mlserve_ray.replica import ReplicaPlan

_OF_THE_INGRESS = ("tls_cert", "tls_key", "tls_client_ca")
_FILES = ("token_file", "require_signature")
"""Settings that name a file, whose content every replica gets."""
DOWNSCALE_DELAY = 60.0


@dataclass(frozen=True, slots=True)
class FrontOptions:
    """What the front was told. `downscale_delay` is in seconds."""

    name: str
    server: ServerOptions
    cluster: ClusterOptions
    downscale_delay: float

    @property
    def model(self) -> ModelSpec:
        """The one model that is served."""
        [model] = self.server.models
        return model

    @property
    def settings(self) -> ServerSettings:
        """The settings as the user gave them."""
        return self.server.settings


def parse(argv: Sequence[str]) -> FrontOptions:
    """Parse the command line. Raises UsageError and PluginError for what cannot be served."""
    parser = argparse.ArgumentParser(prog="python -m mlserve_ray", allow_abbrev=False)
    parser.add_argument("--name", required=True, help="the name of the server")
    parser.add_argument("--downscale-delay", type=float, default=DOWNSCALE_DELAY)
    add_flags(parser, ClusterOptions)
    given, rest = parser.parse_known_args(argv)
    values: dict[str, Any] = vars(given)
    cluster = ClusterOptions.taken_from(values)
    server = parse_server(rest)
    if server.config is not None:
        raise UsageError(
            "the ray launcher does not follow a configuration file",
            hint="name the model: mlserve up --launcher ray --backend NAME --model NAME",
        )
    options = FrontOptions(given.name, server, cluster, given.downscale_delay)
    _check(options)
    return options


def _check(options: FrontOptions) -> None:
    """Raise UsageError for settings that replicas on several machines cannot have."""
    settings, load = options.settings, options.model.options
    taken = {
        "grpc_socket": settings.grpc_socket,
        "rest_socket": settings.rest_socket,
        "ladder": load.ladder,
        "shadow": settings.shadow,
        "split": settings.split,
        "model_control": settings.model_control is ModelControl.ON or None,
    }
    for name, value in taken.items():
        if value is not None:
            raise UsageError(
                f"the ray launcher does not take {flag_of(name)}",
                hint="leave it out, or use --launcher embedded",
            )


def replica_plan(options: FrontOptions) -> ReplicaPlan:
    """Return what each replica is told. Raises UsageError for files that cannot be read."""
    settings, model, cluster = options.settings, options.model, options.cluster
    load = model.options
    if load.threads is None:
        load = replace(load, threads=max(1, round(cluster.cpus_per_replica)))
    tokens = tokens_of(settings)
    files = {
        name: read_file(name, path)
        for name in _FILES
        if (path := getattr(settings, name)) is not None
    }
    left_out: dict[str, Any] = dict.fromkeys((*_OF_THE_INGRESS, *_FILES))
    # Loading and unloading by request would reach one replica only.
    own = replace(settings, **left_out, max_share=None, model_control=ModelControl.OFF)
    flags = ["--backend", model.backend.name, f"--model={model.model}"]
    if settings.max_share is not None:
        flags.append(f"--max-share={settings.max_share}")
    if model.policy.versions:
        flags += ["--version", *map(str, model.policy.versions)]
    if model.policy.serves_all:
        flags.append("--all-versions")
    return ReplicaPlan(
        server=options.name,
        model=model.model,
        flags=(*flags, *load.argv(), *own.argv()),
        files=files,
        token=tokens[0].secret if tokens else None,
        slots=load.calls_at_once or 1,
        is_pinned=model.policy.follows_latest,
        drain_timeout=settings.drain_timeout,
        host="127.0.0.1" if cluster.address is None else None,
    )
