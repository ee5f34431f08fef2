"""`tensorflow_model_server` as data: its command line, configuration file and image.

Flag names are those of tensorflow/serving's model_servers/main.cc. It has no flag for the address:
gRPC and REST listen on all interfaces, whatever host is requested.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlserve.backend import ContainerImage, Listen, ServerSpec
from mlserve.settings import GRPC_PORT, REST_PORT

_CONFIG = "models.config"
IMAGE = "tensorflow/serving:2.20.0"
"""The official image of TensorFlow Serving, published for one architecture only."""
_EXECUTABLE = "tensorflow_model_server"
_ELSEWHERE = (
    "serve it with mlserve's own server (--launcher embedded), or the same model with ONNX Runtime "
    "(mlserve export --backend onnxruntime), whose image is built here"
)
_INSTALL_HINT = (
    "install tensorflow_model_server (it is in no package registry: see TensorFlow Serving's "
    "own instructions), or use --launcher embedded"
)


def server_specs(
    base_path: Path, model: str, versions: Sequence[int], listen: Listen
) -> tuple[ServerSpec, ...]:
    """Return the two servers that can serve `base_path`: on this machine, and in a container.

    They serve `versions`, or the latest if there are none.
    """
    return (
        _server(base_path, model, versions, listen),
        _container(f"/models/{model}", model, versions),
    )


def _server(base_path: Path, model: str, versions: Sequence[int], listen: Listen) -> ServerSpec:
    argv, files = _model_flags(str(base_path.absolute()), model, versions)
    return ServerSpec(
        launcher="native",
        executable=_EXECUTABLE,
        argv=(*_listen_flags(listen), *argv, *_FLAGS),
        env={},
        install_hint=_INSTALL_HINT,
        files=files,
        listens_everywhere=True,
    )


def _container(base_path: str, model: str, versions: Sequence[int]) -> ServerSpec:
    argv, files = _model_flags(base_path, model, versions)
    return ServerSpec(
        launcher="docker",
        executable=_EXECUTABLE,
        argv=(*_listen_flags(Listen("0.0.0.0", GRPC_PORT, REST_PORT)), *argv, *_FLAGS),
        env={},
        install_hint=_ELSEWHERE,
        files=files,
        listens_everywhere=True,
        image=ContainerImage(IMAGE, base_path, architectures=("amd64",)),
    )


_FLAGS = (
    "--file_system_poll_wait_seconds=1",  # detect a new version within a second
    "--rest_api_timeout_in_ms=30000",  # its REST API ignores request deadlines
    "--max_num_load_retries=0",  # fail now, not after five minutes, if a version cannot be loaded
    "--enable_grpc_healthcheck_service=true",
    "--enable_profiler=false",  # it listens on all interfaces: expose as little as possible
)


def _listen_flags(listen: Listen) -> tuple[str, ...]:
    return (f"--port={listen.grpc_port}", f"--rest_api_port={listen.rest_port}")


def _model_flags(
    base_path: str, model: str, versions: Sequence[int]
) -> tuple[tuple[str, ...], dict[str, str]]:
    if not versions:
        return (f"--model_name={model}", f"--model_base_path={base_path}"), {}
    config = _config(base_path, model, versions)
    return (f"--model_config_file={{files}}/{_CONFIG}",), {_CONFIG: config}


def _config(base_path: str, model: str, versions: Sequence[int]) -> str:
    """Return the text of a ModelServerConfig that serves only these versions."""
    numbers = "".join(f"        versions: {number}\n" for number in versions)
    return (
        "model_config_list {\n"
        "  config {\n"
        f"    name: {_quoted(model)}\n"
        f"    base_path: {_quoted(base_path)}\n"
        '    model_platform: "tensorflow"\n'
        "    model_version_policy {\n"
        "      specific {\n"
        f"{numbers}"
        "      }\n"
        "    }\n"
        "  }\n"
        "}\n"
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
