"""Exported models of the test backend `echo`, images, and `mlserve compare` as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlserve.artifact import Manifest, digest_of, labels_text
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.store import Store
from mlserve.tensors import DType, Signature, TensorSpec

LABELS = ("sorrel", "zebra")
SIGNATURE = Signature(
    "serving_default",
    (TensorSpec("image", DType.BYTES, (None,)),),
    (TensorSpec("output_0", DType.BYTES, (None,)),),
)


class Cli:
    """Runs `mlserve` as a process."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def __call__(self, *args: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        process = self.start(*args)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, *args: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlserve", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"NO_COLOR": "1"},
        )
        self.started.append(process)
        return process

    def json(self, *args: object, code: int = 0) -> Any:
        """What `mlserve compare ... --output json` printed; it must end with `code`."""
        done = self("compare", *args, "--output", "json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def cli(home: Path) -> Iterator[Cli]:
    """The command line; what it started is gone after the test."""
    command = Cli()
    yield command
    for process in command.started:
        # Its servers first: they are in sessions of their own, and nobody else knows of them.
        if process.poll() is None:
            for child in psutil.Process(process.pid).children():
                child.kill()
        process.kill()
        process.communicate()


@pytest.fixture
def export(home: Path) -> Callable[..., None]:
    """Writes a version of the model `m` of the echo backend into the store."""

    def write(
        version: int = 1, model: str = "m", *, is_random: bool = False, **config: object
    ) -> None:
        folder = Store().base_path("echo", model) / str(version)
        folder.mkdir(parents=True)
        (folder / "echo.json").write_text(json.dumps(config))
        _manifest(model, is_random=is_random).write(folder, LABELS)

    return write


def _manifest(model: str, *, is_random: bool) -> Manifest:
    return Manifest(
        mlserve="0",
        backend="echo",
        model=model,
        source="test",
        created=datetime.now(UTC).isoformat(),
        weights_digest=digest_of(b""),
        labels_digest=digest_of(labels_text(LABELS)),
        has_random_weights=is_random,
        pipeline=ImagePipeline(8, 8, 1.0, 0.0, Activation.IDENTITY, classes=len(LABELS)),
        signatures=(SIGNATURE,),
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two files that the echo backend takes for images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.png"):
        (folder / name).write_bytes(b"an image")
    return folder


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Waits for a condition: returns its first true value, or fails after 30 s."""

    def wait(condition: Callable[[], Any]) -> Any:
        give_up = time.monotonic() + 30
        while not (value := condition()):
            assert time.monotonic() < give_up, "the condition did not come true"
            time.sleep(0.02)
        return value

    return wait
