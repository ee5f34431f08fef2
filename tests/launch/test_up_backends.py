"""Models of four backends in one server process, side by side, as a configuration file says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlserve import Client, plugins
from mlserve.testing.processes import wait_until
from tests.harness.command import Command

pytestmark = [pytest.mark.tensorflow, pytest.mark.framework, pytest.mark.server]

FILE = """
[servers.line]
grpc_port = 0
rest_port = 0
wait = 200

[servers.line.models.savedmodel]
path = "tfserving"
threads = 1

[servers.line.models.program]
path = "torch"
threads = 2

[servers.line.models.graph]
path = "onnxruntime"
threads = 1
"""
ESTIMATOR = """
[servers.line.models.estimator]
path = "sklearn"
"""
X = [[2.0, 4.0], [6.0, 8.0]]
ROWS = [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
ASKED: dict[str, tuple[dict[str, Any], str, Any]] = {
    "savedmodel": ({"x": X}, "y", [[1.0, 2.0], [3.0, 4.0]]),
    "program": ({"x": X, "flags": [True, False]}, "y", [[1.0, 2.0], [3.0, 4.0]]),
    "graph": ({"x": X, "text": ["a", "b"]}, "y", [[1.0, 2.0], [3.0, 4.0]]),
    "estimator": ({"x": ROWS}, "label", [b"middle", b"high"]),
}
"""The inputs for each model, and what one of its outputs must be."""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command in a folder with the sample model of each backend."""
    folder = tmp_path_factory.mktemp("backends")
    for backend in ("tfserving", "torch", "onnxruntime", "sklearn"):
        version = folder / backend / "1"
        version.mkdir(parents=True)
        plugins.backend(backend).sample(version)
    command = Command(folder, {"MLSERVE_HOME": str(folder / "home")})
    yield command
    command("down", "--all")


@pytest.fixture(scope="module")
def server(command: Command) -> Any:
    """The server of all four, as `mlserve ps` shows it."""
    write(command.folder, FILE + ESTIMATOR)
    up = command("up", timeout=240)
    assert up.returncode == 0, up.stderr
    [server] = command.ps()
    return server


@pytest.fixture(scope="module")
def ask(server: Any) -> Callable[[str], Any]:
    """Asks a model of the server."""

    def ask(model: str) -> Any:
        inputs, output, _ = ASKED[model]
        with Client(server["grpc"], model=model) as client:
            return client.infer(inputs, timeout=30)[output].tolist()

    return ask


def write(folder: Path, text: str) -> Path:
    (folder / "new.toml").write_text(text)
    return (folder / "new.toml").rename(folder / "mlserve.toml")


def test_four_frameworks_answer_side_by_side(server: Any, ask: Callable[[str], Any]) -> None:
    models = [*ASKED] * 10

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, models))

    for model, answer in zip(models, answers, strict=True):
        assert answer == ASKED[model][2], model
    backends = {model["model"]: model["backend"] for model in server["models"]}
    assert backends == {
        "savedmodel": "tfserving",
        "program": "torch",
        "graph": "onnxruntime",
        "estimator": "sklearn",
    }


def test_a_changed_file_changes_only_what_it_names(
    command: Command, server: Any, ask: Callable[[str], Any]
) -> None:
    log = Path(server["log"])
    bad = write(command.folder, FILE + '[servers.line.models.estimator]\npath = "sklearn\n')
    wait_until(lambda: "the configuration is refused" in log.read_text())
    status = wait_until(lambda: _status_with(command, "refused"))
    assert f"line refused {bad}" in status
    assert "mlserve.toml:19:" in status
    for model, (_, _, expected) in ASKED.items():
        assert ask(model) == expected

    write(command.folder, FILE.replace("threads = 2", "threads = 1"))
    wait_until(lambda: "the configuration is in force" in log.read_text())

    assert ask("program") == ASKED["program"][2]
    assert "estimator" not in command("status").stdout
    wait_until(lambda: "version 1 of estimator is unloaded" in log.read_text())
    text = log.read_text()
    loads = {model: text.count(f"loading version 1 of {model}\n") for model in ASKED}
    assert loads == {"savedmodel": 1, "program": 2, "graph": 1, "estimator": 1}


def _status_with(command: Command, word: str) -> str | None:
    status = command("status").stdout
    return status if word in status else None
