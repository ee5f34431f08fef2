"""Serving needs no TensorFlow: a new virtual environment holds core and this plugin, no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlserve.artifact import Artifact
from mlserve.testing.images import plain
from mlserve.testing.processes import ServerProcess, launched

pytestmark = pytest.mark.server
ROOT = Path(__file__).parents[3]
TRAINING = ("tensorflow", "keras", "onnx", "tf2onnx", "mlserve_tfserving", "mlserve_models")
_WHICH_ARE_THERE = """
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name)))
"""


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with `mlserve-onnxruntime[serve]`, made of this checkout.

    pip takes its settings, and PIP_CONSTRAINT if there is one, from where it is run.
    """
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    pip = (sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"))
    plugin = f"{ROOT / 'plugins' / 'onnxruntime'}[serve]"
    run(*pip, "install", "--quiet", "--disable-pip-version-check", str(ROOT), plugin)
    return folder / "bin"


@pytest.fixture(scope="module")
def server(bin_folder: Path, colours_artifact: Artifact) -> Iterator[ServerProcess]:
    """The exported colour classifier, served by that environment's Python."""
    with launched("onnxruntime", colours_artifact, python=str(bin_folder / "python")) as server:
        server.wait_ready()
        yield server


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/", timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_training_framework_is_installed(bin_folder: Path) -> None:
    python = str(bin_folder / "python")
    assert run(python, "-c", _WHICH_ARE_THERE, "onnxruntime", *TRAINING).split() == ["onnxruntime"]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_its_mlserve_asks_its_server(
    bin_folder: Path, server: ServerProcess, protocol: str, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(plain("blue"))
    target = ("--endpoint", server.endpoint(protocol), "--model", server.model)
    asked = (str(bin_folder / "mlserve"), "predict", str(photo), *target, "--output", "json")
    answer = json.loads(run(*asked, "--timeout", "20"))
    assert answer["label"] == "blue"


def test_its_mlserve_knows_the_backend(bin_folder: Path) -> None:
    listed = json.loads(run(str(bin_folder / "mlserve"), "plugins", "--output", "json"))
    assert [part["name"] for part in listed if part["kind"] == "backend"] == ["onnxruntime"]


def test_the_environment_is_its_own(bin_folder: Path) -> None:
    code = "import mlserve, mlserve_onnxruntime as p; print(mlserve.__file__, p.__file__)"
    for path in run(str(bin_folder / "python"), "-c", code).split():
        assert path.startswith(os.fspath(bin_folder.parent))
