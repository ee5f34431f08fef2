"""Real servers of other projects, each a process in the environment that `make foreign` built."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlserve.client import Client, Retries
from mlserve.errors import MlserveError
from mlserve.testing.processes import wait_until
from tests.foreign.colours import TENSORS
from tests.harness.ports import free_ports

HERE = Path(__file__).parent
ENVIRONMENTS = SimpleNamespace(**runpy.run_path(str(HERE / "build.py")))
MODELS = ("label", "scores", "slow", "broken", "tensors", "loading")
LOADED = MODELS[:-1]
LABELS = ("red", "green", "blue")
ONCE = Retries(max_attempts=1)


class ForeignServer:
    """A server of another project with the models of `colours.py`, on the same ports each time."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.python = ENVIRONMENTS.environment(name) / "bin" / "python"
        self.grpc_port, self.rest_port = free_ports(2)
        self.gates = folder / "gates"
        self.gates.mkdir(parents=True)
        self.process: subprocess.Popen[bytes] | None = None
        self._argv, self._surroundings = _LAYOUTS[name](self)

    def endpoint(self, protocol: str) -> str:
        if protocol == "grpc":
            return f"127.0.0.1:{self.grpc_port}"
        return f"http://127.0.0.1:{self.rest_port}"

    def client(self, protocol: str, model: str, **options: Any) -> Client:
        return Client(self.endpoint(protocol), model=model, **options)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def begin(self) -> None:
        """Starts the process, and waits for nothing."""
        surroundings = {**os.environ, "MLSERVE_TEST_GATES": str(self.gates), **self._surroundings}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in self._argv],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=surroundings,
            )

    def start(self) -> None:
        """Starts the process, and returns when both ports answer for a model."""
        self.begin()
        wait_until(lambda: all(self._is_ready(protocol) for protocol in ("rest", "grpc")))

    def kill(self) -> None:
        """Ends the process as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)

    def close_gate(self, model: str) -> None:
        (self.gates / f"{model}.closed").touch()

    def open_gates(self) -> None:
        for gate in self.gates.glob("*.closed"):
            gate.unlink()

    def clear(self) -> None:
        """Opens all gates, and returns when nobody is behind one."""
        self.open_gates()
        for model in MODELS:
            wait_until(lambda model=model: self._lines(model, "left") == self.entered(model))

    def entered(self, model: str) -> int:
        """How often the model has been run."""
        return self._lines(model, "entered")

    def _lines(self, model: str, what: str) -> int:
        path = self.gates / f"{model}.{what}"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def _is_ready(self, protocol: str) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with self.client(protocol, "label", api="oip", retries=ONCE) as client:
            try:
                return all(row.is_available for row in client.status(timeout=5))
            except MlserveError:
                return False


Layout = tuple[list[str | Path], dict[str, str]]


def _triton(server: ForeignServer) -> Layout:
    """The server in the wheel of pytriton, with its Python backend and a model repository."""
    environment = server.python.parents[1]
    (package,) = environment.glob("lib/python*/site-packages/pytriton/tritonserver")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backend = server.folder / "backends" / "python"
    backend.mkdir(parents=True)
    for part in (
        *(package / "backends" / "python").iterdir(),
        package / "python_backend_stubs" / version / "triton_python_backend_stub",
    ):
        (backend / part.name).symlink_to(part)
    repository = server.folder / "repository"
    for model in MODELS:
        code = repository / model / "1"
        code.mkdir(parents=True)
        for file in (HERE / "triton" / "model.py", HERE / "colours.py"):
            shutil.copy(file, code)
        config = HERE / "triton" / f"{model}.pbtxt"
        shutil.copy(config, repository / model / "config.pbtxt")
        (repository / model / "labels.txt").write_text("\n".join(LABELS) + "\n")
    argv: list[str | Path] = [package / "bin" / "tritonserver", "--allow-metrics=false"]
    argv += ["--model-repository", repository, "--backend-directory", server.folder / "backends"]
    argv += ["--http-address", "127.0.0.1", "--http-port", str(server.rest_port)]
    argv += ["--grpc-address", "127.0.0.1", "--grpc-port", str(server.grpc_port)]
    argv += ["--model-control-mode=explicit", *(f"--load-model={model}" for model in LOADED)]
    path = f"{server.python.parent}{os.pathsep}{os.environ['PATH']}"
    libpython = str(sysconfig.get_config_var("LIBDIR"))
    return argv, {"PATH": path, "LD_LIBRARY_PATH": libpython}


def _mlserver(server: ForeignServer) -> Layout:
    shutil.copy(HERE / "colours.py", server.folder)
    shutil.copy(HERE / "mlserver" / "runtime.py", server.folder)
    for model in MODELS:
        inputs = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        outputs = [{"name": "label", "datatype": "BYTES", "shape": [-1]}]
        if model == "scores":
            outputs = [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}]
        if model == "tensors":
            inputs = outputs = [
                {"name": name, "datatype": datatype, "shape": [-1, 2]} for name, datatype in TENSORS
            ]
        settings = {
            "name": model,
            "implementation": "runtime.Colours",
            "inputs": inputs,
            "outputs": outputs,
        }
        (server.folder / model).mkdir()
        (server.folder / model / "model-settings.json").write_text(json.dumps(settings))
    surroundings = {
        "PYTHONPATH": str(server.folder),
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(server.rest_port),
        "MLSERVER_GRPC_PORT": str(server.grpc_port),
        "MLSERVER_METRICS_PORT": str(free_ports(1)[0]),
        "MLSERVER_PARALLEL_WORKERS": "0",
        "MLSERVER_LOAD_MODELS_AT_STARTUP": "true",
    }
    argv = [server.python, "-c", "from mlserver.cli import main; main()", "start", server.folder]
    return argv, surroundings


def _kserve(server: ForeignServer) -> Layout:
    ports = (str(server.rest_port), str(server.grpc_port))
    return [server.python, HERE / "kserve" / "serve.py", *ports], {"PYTHONPATH": str(HERE)}


_LAYOUTS: dict[str, Callable[[ForeignServer], Layout]] = {
    "triton": _triton,
    "mlserver": _mlserver,
    "kserve": _kserve,
}


def environment(server: str) -> Path:
    """The environment of a server or proxy; the test is skipped where there is none."""
    found = Path(ENVIRONMENTS.environment(server))
    if not found.exists():
        pytest.skip(f"no environment for {server}: {ENVIRONMENTS.reason(server)}")
    return found


@contextmanager
def running(name: str, folder: Path) -> Iterator[ForeignServer]:
    """A server of the project of that name, which is ready."""
    environment(name)
    server = ForeignServer(name, folder)
    try:
        server.start()
        yield server
    finally:
        server.open_gates()
        if server.process is not None:
            server.kill()
