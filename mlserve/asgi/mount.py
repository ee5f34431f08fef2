"""`mlserve.server.mount`: which models to serve inside another application, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve import otlp, plugins
from mlserve.backend_choice import require_regarded, require_runtime
from mlserve.errors import MlserveError, UsageError
from mlserve.hints import did_you_mean
from mlserve.load_options import LoadOptions
from mlserve.model_choice import choose
from mlserve.options import described
from mlserve.served_model import ServedModel
from mlserve.settings import ServerSettings
from mlserve.store import VersionPolicy, check_version

if TYPE_CHECKING:
    from mlserve.asgi.mounted import MountedServer

OF_THE_PORT = (
    *("header_timeout", "max_connections", "log_format"),
    *("tls_cert", "tls_key", "tls_client_ca", "grpc_socket", "rest_socket"),
)
"""Settings of what mlserve does not own here: the port and the log of the process."""


def mount(
    *models: str,
    backend: str | None = None,
    path: str | Path | None = None,
    version: int | None = None,
    store: str | Path | None = None,
    poll_seconds: float = 1.0,
    **settings: Any,
) -> MountedServer:
    """Return an ASGI application that serves these models, to mount in another application.

        serving = mlserve.server.mount("inception_v3", backend="onnxruntime", max_queue=8)
        app = FastAPI(lifespan=serving.lifespan)
        app.mount("/ml", serving)

    It has the REST API of mlserve's server (`/v1/...`, `/v2/...`, `/metrics`, `/openapi.json`) and
    the same engine, and can be asked without HTTP: `await serving.predict(image, timeout=1)`.

    Without a name, the only exported model is served, as by `mlserve up`. `backend` is needed where
    a model was exported for several. `path` is the folder of one model, which holds its version
    folders; `store` is a folder of exported models. `version` None is the latest one, and each
    newer one as it appears: the folder is looked at every `poll_seconds`, 0 being never. The rest
    are the settings of a server by their names in Python, such as `threads`, `max_queue`,
    `default_timeout` or `token_file`; those of its port belong to the ASGI server that runs the
    application.

    Raises NotFound for a model that is not there, PluginError for a package that is missing, and
    UsageError for any other argument that is wrong. Nothing is loaded yet.
    """
    try:
        options, server_settings = _settings(settings)
        if path is not None and len(models) > 1:
            raise UsageError(
                f"{path} is the folder of one model, and {len(models)} are named",
                hint="mount each folder by itself",
            )
        rollout = server_settings.rollout
        if rollout.changed and len(models) > 1:
            raise UsageError(
                f"{next(iter(rollout.changed))} is for a version of one model, and {len(models)} "
                "are named",
                hint="mount that model by itself",
            )
        named = () if version is None else (check_version(version),)
        policy = VersionPolicy(named, aside=rollout.aside)
        chosen = [
            _choice(model, backend, path, policy, store, options)
            for model in dict.fromkeys(models or (None,))
        ]
        chosen = [replace(each, rollout=rollout) for each in chosen]
        return _mounted(chosen, server_settings, poll_seconds)
    except MlserveError as error:
        if error.hint is not None:
            error.add_note(f"hint: {error.hint}")  # a traceback does not show it otherwise
        raise


def _choice(
    model: str | None,
    backend: str | None,
    path: str | Path | None,
    policy: VersionPolicy,
    store: str | Path | None,
    options: LoadOptions,
) -> ServedModel:
    """Return what to serve, once it is sure that it can be served here."""
    folder, root = (None if place is None else Path(place) for place in (path, store))
    chosen = replace(choose(backend, model, folder, policy, root), options=options)
    runtime = plugins.backend(chosen.backend)
    require_regarded(runtime, chosen.options)
    require_runtime(runtime)
    return chosen


def _mounted(
    chosen: list[ServedModel], settings: ServerSettings, poll_seconds: float
) -> MountedServer:
    from mlserve.asgi.mounted import MountedServer
    from mlserve.server.models.versions import ModelSpec

    models = [
        ModelSpec(
            plugins.backend(model.backend),
            model.model,
            model.base_path,
            model.versions,
            model.options,
            poll_seconds,
            rollout=model.rollout,
        )
        for model in chosen
    ]
    threads = max(model.calls_at_once for model in models)
    return MountedServer(models, settings, threads=threads)


def _settings(values: Mapping[str, Any]) -> tuple[LoadOptions, ServerSettings]:
    known = {item.name: item for kind in (LoadOptions, ServerSettings) for item in described(kind)}
    for name in values:
        if name not in known:
            raise UsageError(
                f"{name!r} is not a setting of a server",
                hint=did_you_mean(name, known) + "docs/reference/settings.md lists them",
            )
        if name in OF_THE_PORT:
            raise UsageError(
                f"{name} cannot be set here: the port and the log belong to the ASGI server",
                hint="set it there; docs/web-frameworks.md says what holds in its place",
            )
    if values.get("processes") not in (None, 1):
        raise UsageError(
            "a mounted server runs its models in the application's own process",
            hint="leave processes out, and have the ASGI server run more of its own",
        )
    read = {name: known[name].read(value) for name, value in values.items()}
    loading = {
        item.name: read.pop(item.name) for item in described(LoadOptions) if item.name in read
    }
    settings = ServerSettings(**read)
    if settings.otlp is not None:
        otlp.require_sdk()
    return LoadOptions(**loading), settings
