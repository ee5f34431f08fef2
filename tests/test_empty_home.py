"""A user's home after a round with each backend: mlserve's folders, no framework's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlserve.testing.images import plain

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]
BACKENDS = ("tfserving", "onnxruntime")
MODEL = """
import keras
layers = [keras.layers.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
keras.Sequential([*layers, keras.layers.Softmax()]).save("tiny.keras")
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Any:
    """Runs Python with that home, and none of the settings that would lead files elsewhere."""
    unset = ("MLSERVE_HOME", "KERAS_HOME", "ORT_DISABLE_TELEMETRY")
    env = {k: v for k, v in os.environ.items() if k not in unset and not k.startswith("XDG_")}

    def python(*args: str, **extra: str) -> str:
        done = subprocess.run(
            [sys.executable, *args],
            env={**env, "HOME": str(home), **extra},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return python


@pytest.mark.timeout(600)
def test_an_empty_home_holds_only_our_folders_after_export_up_predict_and_down(
    home: Path, run: Any, tmp_path: Path
) -> None:
    (tmp_path / "red.png").write_bytes(plain("red", "PNG"))
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    run("-W", "ignore", "-c", MODEL, KERAS_HOME=str(tmp_path / "elsewhere"))
    own = ("--model", "tiny", "--weights", "tiny.keras", "--labels", "labels.txt")

    for backend in BACKENDS:
        run("-m", "mlserve", "export", "--backend", backend, *own, "--scale", "0..1")
        run(
            "-m", "mlserve", "up", "--backend", backend, "--launcher", "embedded", "--model", "tiny"
        )
        run("-m", "mlserve", "predict", "red.png", "--backend", backend, "--timeout", "30")
        run("-m", "mlserve", "down", "--backend", backend)

    left = sorted(str(path.relative_to(home)) for path in home.glob(".*/*"))
    assert left == [".cache/mlserve", ".local/share", ".local/state"]
    assert [path.name for path in home.glob(".local/*/*")] == ["mlserve"] * 2
