"""The servers of the comparison: how each is started with given settings, and how it is asked.

Each is set up as its documentation recommends for production: no debug mode, no log line a request
where that can be turned off, workers and threads as `settings` lists them. SOURCES says where.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import exchanges
from environments import ROOT, environment
from exchanges import Ask

SERVING = Path(__file__).parent / "serving"
MODEL = "m"
"""The name that servers which want one serve the model under."""


@dataclass(frozen=True)
class Settings:
    """How many processes hold the model, and how many threads a run of each has."""

    workers: int
    threads: int

    def __str__(self) -> str:
        if self == AS_INSTALLED:
            return "as installed"
        workers = "in the server's process" if not self.workers else _count(self.workers, "worker")
        return f"{workers}, {_count(self.threads, 'thread')}"


AS_INSTALLED = Settings(0, 0)
"""No settings at all."""


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


@dataclass(frozen=True)
class Launch:
    """What a server is started with; `folder` is empty and its own, `cpus` are there to use."""

    folder: Path
    port: int
    model: Path | None
    """What `mlserve export` wrote; None is half a second of sleep in place of a model."""
    settings: Settings
    cpus: int
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of its own that only one comparison gives it: limits."""


Command = tuple[list[Any], dict[str, str]]
"""Arguments and environment variables."""


@dataclass(frozen=True)
class Peer:
    """Another server: its environment, its command, its requests, and what its users set."""

    name: str
    environment: str
    command: Callable[[Launch], Command]
    ask: Ask
    settings: Callable[[int], tuple[Settings, ...]]
    """The settings that its documentation offers for so many CPUs; the best is measured."""
    source: str
    """The page of its documentation that the settings are from."""

    @property
    def is_built(self) -> bool:
        """Whether it can be started."""
        return not self.environment or Path(environment(self.environment).path).exists()

    @property
    def is_ours(self) -> bool:
        """Whether it is mlserve."""
        return not self.environment


def _either(cpus: int) -> tuple[Settings, ...]:
    """A process for each CPU with one thread each, or one process whose runs have all threads."""
    return tuple(dict.fromkeys([Settings(cpus, 1), Settings(1, cpus)]))


def _one(cpus: int) -> tuple[Settings, ...]:
    """One process: its runs have all threads, or one each and run side by side."""
    return tuple(dict.fromkeys([Settings(1, cpus), Settings(1, 1)]))


def _many(cpus: int) -> tuple[Settings, ...]:
    """A process for each CPU: with one thread, or with ONNX Runtime's default."""
    return tuple(dict.fromkeys([Settings(cpus, 1), Settings(cpus, cpus)]))


def _or_in_process(cpus: int) -> tuple[Settings, ...]:
    return (*_either(cpus), Settings(0, cpus))


def _as_installed(_: int) -> tuple[Settings, ...]:
    return (AS_INSTALLED,)


def _mlserve(protocol: str, *flags: str) -> Callable[[Launch], Command]:
    def command(launch: Launch) -> Command:
        ports = {"rest": free_ports(1)[0], "grpc": free_ports(1)[0]} | {protocol: launch.port}
        argv = [sys.executable, "-m", "mlserve.server", "--backend", "onnxruntime"]
        argv += ["--model", MODEL, "--base-path", launch.model.parent, "--host", "127.0.0.1"]
        argv += [part for name, port in ports.items() for part in (f"--{name}-port", port)]
        return [*argv, *flags], {}

    return command


def _fastapi(launch: Launch) -> Command:
    argv = [environment("fastapi").python, "-m", "uvicorn", "fastapi_app:app"]
    argv += ["--host", "127.0.0.1", "--port", launch.port, "--workers", launch.settings.workers]
    return [*argv, "--log-level", "warning", "--no-access-log"], {}


def _litserve(launch: Launch) -> Command:
    timeout = launch.options.get("timeout", 0)
    argv = [environment("litserve").python, SERVING / "litserve_server.py", launch.port]
    return [*argv, launch.settings.workers, timeout], {}


def _bentoml(launch: Launch) -> Command:
    argv = [environment("bentoml").python, "-m", "bentoml", "serve", "bentoml_service:Work"]
    argv += ["--host", "127.0.0.1", "--port", launch.port, "--working-dir", SERVING]
    service = {"workers": launch.settings.workers, **launch.options}
    env = {"BENTOML_HOME": str(launch.folder), "BENTOML_DO_NOT_TRACK": "1"}
    return argv, {**env, "SERVICE": json.dumps(service)}


def mlserver(protocol: str) -> Callable[[Launch], Command]:
    """Return how MLServer is started, with the port as that of `HTTP` or `GRPC`."""

    def command(launch: Launch) -> Command:
        settings = {"name": MODEL, "implementation": "mlserver_runtime.Work"}
        (launch.folder / "model-settings.json").write_text(json.dumps(settings))
        others = free_ports(3)
        ports = dict(zip(("HTTP", "GRPC", "METRICS"), others, strict=True))
        ports[protocol] = launch.port
        env = {f"MLSERVER_{name}_PORT": str(value) for name, value in ports.items()}
        env |= {"MLSERVER_PARALLEL_WORKERS": str(launch.settings.workers), "MLSERVER_DEBUG": "0"}
        python = environment("mlserver").python
        argv = [python, "-c", "from mlserver.cli import main; main()", "start", launch.folder]
        return argv, {**env, "MLSERVER_HOST": "127.0.0.1"}

    return command


def _torchserve(launch: Launch) -> Command:
    python, store = environment("torchserve").python, launch.folder / "store"
    model = store / MODEL
    (model / "MAR-INF").mkdir(parents=True)
    manifest = {"modelName": MODEL, "modelVersion": "1.0", "handler": "torchserve_handler:handle"}
    manifest = {"runtime": "python", "archiverVersion": "0.12.0", "model": manifest}
    (model / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    shutil.copy(SERVING / "torchserve_handler.py", model)
    addresses = dict(zip(("management", "metrics"), free_ports(2), strict=True))
    grpc = dict(zip(("inference", "management"), free_ports(2), strict=True))
    lines = [f"{name}_address=http://127.0.0.1:{port}" for name, port in addresses.items()]
    lines += [f"grpc_{name}_port={port}" for name, port in grpc.items()]
    lines += [
        f"inference_address=http://127.0.0.1:{launch.port}",
        f"default_workers_per_model={launch.settings.workers}",
        "async_logging=true",
        "disable_token_authorization=true",
    ]
    config = launch.folder / "config.properties"
    config.write_text("\n".join(lines) + "\n")
    argv = [python, "-m", "ts.model_server", "--start", "--foreground", "--ncs"]
    argv += ["--model-store", store, "--models", f"{MODEL}={MODEL}", "--ts-config", config]
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return [*argv, "--disable-token-auth"], {"PATH": path, "LOG_LOCATION": str(launch.folder)}


def _ray(launch: Launch) -> Command:
    argv = [environment("ray").python, SERVING / "ray_server.py", launch.port]
    env = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    env |= {"RAY_AUTH_MODE": "disabled"}  # else it writes a token into the user's home
    # By default its workers are as nice as 15: the load generator would take the CPU from them.
    env |= {"RAY_worker_niceness": "0"}
    # Its proxy is killed when a busy machine takes longer than 5 seconds to start it.
    env |= {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
    env |= {"RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60"}
    return [*argv, launch.settings.workers, launch.cpus], env


def triton(protocol: str) -> Callable[[Launch], Command]:
    """Return how Triton is started, with the port as that of `http` or `grpc`.

    The option `limits` is text for its configuration of the model.
    """

    def command(launch: Launch) -> Command:
        found = environment("triton").path
        (package,) = found.glob("lib/python*/site-packages/pytriton/tritonserver")
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        backend, model = launch.folder / "backends" / "python", launch.folder / "models" / MODEL
        backend.mkdir(parents=True)
        stub = package / "python_backend_stubs" / version / "triton_python_backend_stub"
        for part in (*(package / "backends" / "python").iterdir(), stub):
            (backend / part.name).symlink_to(part)
        (model / "1").mkdir(parents=True)
        shutil.copy(SERVING / "triton_model.py", model / "1" / "model.py")
        # Its processes do not look where PYTHONPATH says, but in the model's folder.
        for part in (SERVING / "work.py", SERVING / "classifier.py", ROOT / "mlserve"):
            (model / "1" / part.name).symlink_to(part)
        (model / "config.pbtxt").write_text(
            _TRITON % launch.settings.workers + launch.options.get("limits", "")
        )
        other = {"http": "grpc", "grpc": "http"}[protocol]
        argv = [package / "bin" / "tritonserver", "--allow-metrics=false", f"--allow-{other}=false"]
        argv += ["--model-repository", model.parent, "--backend-directory", backend.parent]
        argv += [f"--{protocol}-address", "127.0.0.1", f"--{protocol}-port", launch.port]
        path = f"{found / 'bin'}{os.pathsep}{os.environ['PATH']}"
        libraries = str(sysconfig.get_config_var("LIBDIR"))
        return argv, {"PATH": path, "LD_LIBRARY_PATH": libraries}

    return command


ONE_IN_A_BATCH = (1, 1)
"""The shape of an image for Triton, where requests are batches."""
_TRITON = """backend: "python" max_batch_size: 1
input { name: "image" data_type: TYPE_STRING dims: 1 }
output { name: "label" data_type: TYPE_STRING dims: 1 }
output { name: "score" data_type: TYPE_FP32 dims: 1 }
instance_group { count: %d kind: KIND_CPU }
"""


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


_PREDICT, _INFER = exchanges.plain("/predict"), exchanges.oip_binary(MODEL)
MLSERVE = (
    Peer("mlserve, gRPC", "", _mlserve("grpc"), exchanges.tfs_grpc(MODEL), _as_installed, ""),
    Peer("mlserve, REST", "", _mlserve("rest"), _INFER, _as_installed, ""),
)


def mlserve_servers(cpus: int) -> tuple[Peer, ...]:
    """Return mlserve as installed, and with a process for each CPU if this one can do that."""
    argv = [sys.executable, "-m", "mlserve.server", "--help"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    if "--processes" not in said:
        return MLSERVE
    flags = ("--processes", str(cpus))
    name = f"mlserve, REST, {' '.join(flags)}"
    return (*MLSERVE, Peer(name, "", _mlserve("rest", *flags), _INFER, _as_installed, ""))


PEERS = (
    Peer(
        "FastAPI, 1 worker",
        "fastapi",
        _fastapi,
        _PREDICT,
        _one,
        "https://fastapi.tiangolo.com/async/",
    ),
    Peer(
        "FastAPI, n workers",
        "fastapi",
        _fastapi,
        _PREDICT,
        _many,
        "https://fastapi.tiangolo.com/deployment/server-workers/",
    ),
    Peer(
        "LitServe",
        "litserve",
        _litserve,
        exchanges.form("/predict"),
        _either,
        "https://lightning.ai/docs/litserve/api-reference/litserver",
    ),
    Peer(
        "BentoML",
        "bentoml",
        _bentoml,
        _PREDICT,
        _either,
        "https://docs.bentoml.com/en/latest/build-with-bentoml/parallelize-requests.html",
    ),
    Peer(
        "MLServer",
        "mlserver",
        mlserver("GRPC"),
        exchanges.oip_grpc(MODEL),
        _or_in_process,
        "https://docs.seldon.ai/mlserver/user-guide/parallel-inference",
    ),
    Peer(
        "TorchServe",
        "torchserve",
        _torchserve,
        exchanges.plain(f"/predictions/{MODEL}"),
        _either,
        "https://docs.pytorch.org/serve/configuration.html",
    ),
    Peer(
        "Ray Serve",
        "ray",
        _ray,
        _PREDICT,
        _either,
        "https://docs.ray.io/en/latest/serve/advanced-guides/performance.html",
    ),
    Peer(
        "Triton",
        "triton",
        triton("http"),
        exchanges.oip_binary(MODEL, ONE_IN_A_BATCH),
        _either,
        "https://github.com/triton-inference-server/python_backend",
    ),
)
