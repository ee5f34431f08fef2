"""TorchServe as data: its command line, its configuration, and a model folder for each version.

A folder is what `torch-model-archiver --archive-format no-archive` makes of the handler and its
settings. The model itself stays where it is: the handler opens it there. Options and properties are
those of TorchServe 0.12.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mlserve.backend import Listen, ServerSpec
from mlserve.settings import DEFAULT_SETTINGS
from mlserve.store import present_versions

_CONFIG = "config.properties"
_LOGGING = "log4j2.xml"
_STORE = "store"  # not `models`, which TorchServe makes in its folder for temporary files
_HANDLER = "torchserve_handler.py"
_ARCHIVER = "0.12.0"
_LONGEST_LOAD = 3600
"""Seconds; what ends a slow start is `mlserve up --wait`."""
_LONGEST_PATH = 107
"""Bytes in the path of a socket (unix(7)); those of the workers are in the server's folder."""
_LIMIT = 2**31 - 1
_INSTALL_HINT = (
    "install TorchServe and Java 17 beside mlserve-torch: pip install torchserve pyyaml, "
    "apt install openjdk-17-jre-headless; or use --launcher embedded"
)


def server_specs(
    backend: str, base_path: Path, model: str, versions: Sequence[int], listen: Listen
) -> tuple[ServerSpec, ...]:
    """Return TorchServe, which serves `versions`, or the one that is the latest now, if any.

    A request that names no version gets the highest.
    """
    present = present_versions(base_path) if base_path.is_dir() else ()
    served = sorted(versions or present[-1:], reverse=True)
    return (
        ServerSpec(
            launcher="native",
            executable="torchserve",
            argv=_argv(model, served),
            env=_ENV,
            install_hint=_INSTALL_HINT,
            files={
                _CONFIG: _config(listen),
                _LOGGING: _LOG4J2,
                **_models(backend, base_path, model, served),
            },
            follows_versions=False,
            only_on_request=True,
            longest_folder=_LONGEST_PATH - len("/.ts.sock.65535"),
        ),
    )


def _argv(model: str, versions: Sequence[int]) -> tuple[str, ...]:
    return (
        *("--start", "--foreground", "--no-config-snapshots", "--disable-token-auth"),
        *("--ts-config", f"{{files}}/{_CONFIG}", "--log-config", f"{{files}}/{_LOGGING}"),
        *("--model-store", f"{{files}}/{_STORE}"),
        # The first version of a name becomes its default. A relative path would be looked for in
        # the current folder as well.
        *("--models", *(f"{model}={{files}}/{_STORE}/{version}" for version in versions)),
    )


_ENV = {
    "TS_CONFIG_FILE": f"{{files}}/{_CONFIG}",  # the user's own would take the place of --ts-config
    # Its files with fixed names, among them the sockets of its workers, are in the folder for
    # temporary files: two servers would meet there.
    "TMPDIR": "{files}",  # for its start script
    "TEMP": "{files}",  # for its Java server
    "LOG_LOCATION": "{files}",
    "METRICS_LOCATION": "{files}",
}


def _config(listen: Listen) -> str:
    """Return the text of config.properties: what listens is the inference API, nothing else.

    The management API has no switch: it gets free ports of the loopback interface, and can neither
    register nor delete models (that would take --enable-model-api).
    """
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    limit = min(DEFAULT_SETTINGS.max_request_bytes, _LIMIT)
    properties = {
        "inference_address": f"http://{host}:{listen.rest_port}",
        "management_address": "http://127.0.0.1:0",
        "grpc_inference_address": listen.host,
        "grpc_inference_port": listen.grpc_port,
        "grpc_management_address": "127.0.0.1",
        "grpc_management_port": 0,
        "allowed_urls": "none",  # of models to register
        "enable_metrics_api": "false",
        "disable_system_metrics": "true",
        "decode_input_request": "false",  # the handler reads the bytes
        "default_workers_per_model": 1,  # each has a model of its own in memory
        "default_response_timeout": round(DEFAULT_SETTINGS.default_timeout),
        "default_startup_timeout": _LONGEST_LOAD,
        "max_request_size": limit,
        "max_response_size": limit,
    }
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def _models(backend: str, base_path: Path, model: str, versions: Sequence[int]) -> dict[str, str]:
    handler = Path(__file__).with_name(_HANDLER).read_text()
    texts = {}
    for version in versions:
        folder = f"{_STORE}/{version}"
        settings = {
            "backend": backend,
            "model": model,
            "base_path": str(base_path.absolute()),
            "version": version,
            "versions": list(versions),
        }
        texts[f"{folder}/MAR-INF/MANIFEST.json"] = json.dumps(_manifest(model, version), indent=2)
        texts[f"{folder}/{_HANDLER}"] = handler
        texts[f"{folder}/model.json"] = json.dumps(settings, indent=2)
    return texts


def _manifest(model: str, version: int) -> dict[str, object]:
    described = {"modelName": model, "handler": _HANDLER, "modelVersion": str(version)}
    return {"runtime": "python", "model": described, "archiverVersion": _ARCHIVER}


_LOG4J2 = """\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders>
    <Console name="console" target="SYSTEM_OUT">
      <PatternLayout pattern="%d{ISO8601} %-5p %c{1} %m%n"/>
    </Console>
  </Appenders>
  <Loggers>
    <Root level="info"><AppenderRef ref="console"/></Root>
    <Logger name="org.pytorch.serve.wlm" level="warn"/>
    <Logger name="org.pytorch.serve.archive" level="warn"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
  </Loggers>
</Configuration>
"""
"""To standard output alone, which is the server's log, without lines for each step of a request."""
