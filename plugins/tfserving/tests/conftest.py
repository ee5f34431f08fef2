"""What this plugin's tests share: the colour classifier of the suite, and model servers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve.artifact import Artifact
from mlserve.sources import Classifier
from mlserve.testing.artifacts import exported
from mlserve.testing.colours import LABELS, colour_classifier

RUN = """
import sys
from mlserve import plugins
from mlserve_model_server.command import run
sys.exit(run(sys.argv[1:], plugins.backend("echo")))
"""
ECHO = (sys.executable, "-c", RUN)

MakeClassifier = Callable[..., Classifier]
Export = Callable[[Classifier, Path], Artifact]


@pytest.fixture(scope="session")
def make_classifier() -> MakeClassifier:
    """Makes a Classifier of a function float32[N, 8, 8, 3] -> float32[N, classes]."""
    import tensorflow as tf

    class Forward(tf.Module):  # type: ignore[misc]
        def __init__(self, function: Callable[[Any], Any]) -> None:
            super().__init__()
            self.function = function
            self.gain = tf.Variable(1.0)  # a model has variables, which must be saved too

        def __call__(self, pixels: Any) -> Any:
            return self.gain * self.function(pixels)

    def mean_colour(pixels: Any) -> Any:
        return tf.reduce_mean(pixels, [1, 2])

    def make(
        function: Callable[[Any], Any] = mean_colour,
        labels: tuple[str, ...] = LABELS,
        **pipeline: Any,
    ) -> Classifier:
        return colour_classifier(Forward(function), labels, **pipeline)

    return make


@pytest.fixture(scope="session")
def export_to() -> Export:
    """Exports a classifier as version 1 of a folder, manifest and labels included."""
    return lambda model, base_path: exported("tfserving", model, base_path)


@pytest.fixture(scope="session")
def artifact(
    make_classifier: MakeClassifier, export_to: Export, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """The exported colour classifier."""
    return export_to(make_classifier(), tmp_path_factory.mktemp("colours"))


class Server:
    """A running model server with its two addresses."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, ports: tuple[int, int]) -> None:
        self.process = process
        self.grpc, self.rest = (f"127.0.0.1:{port}" for port in ports)
        self._log = log
        self._http = httpx.Client(base_url=f"http://{self.rest}/", timeout=20, verify=False)

    def close(self) -> None:
        self._http.close()

    def log(self) -> str:
        return self._log.read_text()

    def predict(self, where: str) -> httpx.Response:
        """The answer of `<model>[/versions/n|/labels/l]`."""
        return self.post(where, {"inputs": ["x"]})

    def post(self, where: str, body: Any) -> httpx.Response:
        return self.ask(f"{where}:predict", body)

    def ask(self, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        """The answer to a POST of `<model>...:<verb>`."""
        return self._http.post(f"v1/models/{path}", json=body, headers=headers)

    def get(self, path: str) -> httpx.Response:
        return self._http.get(path)

    def label(self, where: str) -> str:
        answer = self.predict(where)
        return answer.json()["outputs"][0] if answer.status_code == 200 else answer.text

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return self.get("v2/health/ready").is_success
        except httpx.TransportError:
            return False


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@contextmanager
def started(command: tuple[str, ...], log: Path, *flags: str) -> Iterator[Server]:
    ports = free_ports()
    argv = [*command, f"--port={ports[0]}", f"--rest_api_port={ports[1]}", *flags]
    with log.open("wb") as file, subprocess.Popen(argv, stderr=file) as process:
        server = Server(process, log, ports)
        try:
            yield server
        finally:
            server.close()
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="session")
def start() -> Callable[..., AbstractContextManager[Server]]:
    """Starts a model server by that command, logging into that file; the rest are its flags."""
    return started


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server of echo models, or by another `command`; the arguments are its flags."""
    with ExitStack() as servers:
        yield lambda *flags, command=ECHO: servers.enter_context(
            started(command, tmp_path / "log", *flags)
        )


@pytest.fixture(scope="module")
def module_launch(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Server]]:
    """The same for a server that the tests of a module share."""
    log = tmp_path_factory.mktemp("server") / "log"
    with ExitStack() as servers:
        yield lambda *flags, command=ECHO: servers.enter_context(started(command, log, *flags))


@pytest.fixture
def echo_command() -> tuple[str, ...]:
    """What starts a server of echo models."""
    return ECHO


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Writes an echo model `<model>/<version>`, whose label is that path; returns its folder."""

    def write(path: str, **config: Any) -> Path:
        folder = tmp_path / path
        incoming = folder.parent / f".{folder.name}"
        incoming.mkdir(parents=True)
        (incoming / "echo.json").write_text(json.dumps({"label": path, **config}))
        return incoming.rename(folder)

    return write
