"""The command `mlserve-model-server`: mlserve's server with tensorflow_model_server's flags."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlserve import __version__, plugins
from mlserve.backend import Backend
from mlserve.errors import ExitCode, MlserveError, UsageError
from mlserve.load_options import LoadOptions
from mlserve.rollout import RolloutOptions
from mlserve.server.app import ServerOptions, log_error, serve
from mlserve.server.models.versions import LoadRetries
from mlserve.server.telemetry.log import log_to_stderr
from mlserve.settings import LogFormat, ServerSettings
from mlserve.system import usable_memory
from mlserve.wire.proto.model_config_pb2 import ModelServerConfig
from mlserve_model_server.config import ConfigReload, ServingDefaults, config_of, read_text
from mlserve_model_server.files import (
    Batching,
    read_batching,
    read_metrics_path,
    read_tls,
)
from mlserve_model_server.flags import INT32_MAX, Given, parse, usage

_log = logging.getLogger(__name__)

COMMAND = "mlserve-model-server"
HOST = "0.0.0.0"
"""tensorflow_model_server has no flag for the host: it listens on every address."""
FAILED = 255
"""tensorflow_model_server's exit code for any failure."""


def main() -> None:
    """Run the server and end the process with its exit code."""
    sys.exit(run(sys.argv[1:], plugins.backend("tfserving")))


def run(argv: Sequence[str], backend: Backend) -> int:
    """Serve the models of that command line with the backend; return the exit code."""
    try:
        given = parse(argv)
        log_format = given.own_settings().get("log_format", LogFormat.TEXT)
    except UsageError as error:
        sys.stdout.write(f"{error.message}\n{usage(COMMAND)}")
        return FAILED
    if given.is_on("help"):
        sys.stdout.write(usage(COMMAND))
        return ExitCode.OK
    if given.is_on("version"):
        sys.stdout.write(_versions())
        return ExitCode.OK
    log_to_stderr(log_format)
    with tempfile.TemporaryDirectory(prefix="mlserve-model-server-") as folder:
        return _serve(given, backend, Path(folder))


def _serve(given: Given, backend: Backend, folder: Path) -> int:
    for flag in given.without_effect():
        _log.warning("--%s has no effect here: %s", flag.name, flag.ignored)
    try:
        options = options_of(given, backend, folder)
    except MlserveError as error:
        log_error(error)
        return FAILED
    return FAILED if asyncio.run(serve(options)) else ExitCode.OK


def options_of(given: Given, backend: Backend, folder: Path) -> ServerOptions:
    """Translate flags into server options; keys are written into `folder`. Raises UsageError."""
    rest_port = _port(given, "rest_api_port") or None
    if rest_port is not None and rest_port == given.number("port"):
        raise UsageError(f"--rest_api_port cannot be same as --port: both are {rest_port}")
    batching = _batching(given)
    threads = given.number("tensorflow_session_parallelism") or None
    options = LoadOptions(
        given.number("tensorflow_intra_op_parallelism") or threads,
        processes=1,  # as tensorflow_model_server has
        allow_unsafe_ops=given.is_on("allow_unsafe_ops"),
    )
    settings = _settings(given, batching, folder)
    defaults = ServingDefaults(backend, options, _poll(given), _retries(given))
    reload = _reload(given, defaults, settings.rollout)
    return ServerOptions(
        models=reload.first_models(_config(given, reload)),
        host=HOST,
        grpc_port=_port(given, "port"),
        rest_port=rest_port,
        threads=threads if batching is None else batching.threads or threads,
        settings=settings,
        reload=reload,
        metrics_path=_metrics_path(given, rest_port),
        cors=given.is_on("rest_api_enable_cors_support"),
    )


def _config(given: Given, reload: ConfigReload) -> ModelServerConfig:
    if reload.path is not None:
        return read_text(reload.path, ModelServerConfig)
    base_path = given.text("model_base_path")
    if not base_path:
        raise UsageError(
            "neither --model_config_file nor --model_base_path is given",
            hint="give the folder that holds the model's version folders, or a file of models",
        )
    return config_of(given.text("model_name"), base_path)


def _reload(given: Given, defaults: ServingDefaults, rollout: RolloutOptions) -> ConfigReload:
    return ConfigReload(
        defaults,
        given.is_on("allow_version_labels_for_unavailable_models"),
        _path(given, "model_config_file"),
        float(given.number("model_config_file_poll_wait_seconds")),
        rollout,
    )


def _poll(given: Given) -> float:
    return float(max(0, given.number("file_system_poll_wait_seconds")))


def _retries(given: Given) -> LoadRetries:
    micros = given.number("load_retry_interval_micros")
    return LoadRetries(given.number("max_num_load_retries"), max(0, micros) / 1e6)


def _settings(given: Given, batching: Batching | None, folder: Path) -> ServerSettings:
    most = usable_memory() // 2
    values: dict[str, Any] = {
        "max_batch_length": INT32_MAX,
        "max_request_bytes": min(INT32_MAX, most),
        "max_body_memory": most,
        **given.own_settings(),
    }
    if (unix := _path(given, "grpc_socket_path")) is not None:
        values["grpc_socket"] = unix
    timeout = given.number("rest_api_timeout_in_ms") / 1000
    settings = ServerSettings(default_timeout=timeout, **values)
    if batching is not None:
        settings = batching.settings(settings)
    tls = _path(given, "ssl_config_file")
    return settings if tls is None else replace(settings, **read_tls(tls, folder))  # type: ignore[arg-type]


def _batching(given: Given) -> Batching | None:
    path = _path(given, "batching_parameters_file")
    if path is not None and not given.is_on("enable_batching"):
        raise UsageError(
            "--batching_parameters_file is given without --enable_batching",
            hint="add --enable_batching, or leave the file out",
        )
    if not given.is_on("enable_batching"):
        return None
    return Batching() if path is None else read_batching(path)


def _metrics_path(given: Given, rest_port: int | None) -> str | None:
    path = _path(given, "monitoring_config_file")
    where = None if path is None else read_metrics_path(path)
    if where is not None and rest_port is None:
        _log.warning("--monitoring_config_file has no effect here: it needs --rest_api_port")
    return where


def _port(given: Given, name: str) -> int:
    port = given.number(name)
    if not 0 <= port < 2**16:
        raise UsageError(f"--{name} must be from 0 to 65535, not {port}")
    return port


def _path(given: Given, name: str) -> Path | None:
    return Path(given.text(name)) if given.text(name) else None


def _versions() -> str:
    try:
        tensorflow = version("tensorflow")
    except PackageNotFoundError:
        tensorflow = "not installed"
    return f"mlserve ModelServer: {__version__}\nTensorFlow Library: {tensorflow}\n"
