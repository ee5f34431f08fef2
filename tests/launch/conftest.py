"""Servers of the test backend `echo`, started by real commands and stopped at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mlserve.artifact import Manifest, digest_of, labels_text
from mlserve.launch.processes import is_running
from mlserve.launch.state import read_records
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.store import Store
from mlserve.tensors import DType, Signature, TensorSpec

LABELS = ("sorrel", "zebra")
SIGNATURE = Signature(
    "serving_default",
    (TensorSpec("image", DType.BYTES, (None,)),),
    (TensorSpec("output_0", DType.BYTES, (None,)),),
)
FREE_PORTS = ("--grpc-port", "0", "--rest-port", "0")


@dataclass
class Cli:
    """Runs `mlserve` as a process; `env` is added to the environment."""

    env: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*args),
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *args: str) -> subprocess.Popen[str]:
        """The running command, with both outputs as pipes."""
        process = subprocess.Popen(
            self.argv(*args),
            env={**os.environ, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def up(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`mlserve up` of the echo backend at free ports."""
        return self("up", "--backend", "echo", *FREE_PORTS, "--wait", "40", *args)

    def ps(self) -> list[dict[str, Any]]:
        """What `mlserve ps` lists."""
        done = self("ps", "--output", "json")
        assert done.returncode == 0, done.stderr
        listed: list[dict[str, Any]] = json.loads(done.stdout)
        return listed

    @staticmethod
    def argv(*args: str) -> list[str]:
        return [sys.executable, "-m", "mlserve", *args]


@pytest.fixture
def cli(home: Path) -> Iterator[Cli]:
    """The command line. Every process that it or its servers started is gone after the test."""
    command = Cli()
    yield command
    for process in command.started:
        process.kill()
    # Before their output is read to its end: a server holds the pipe of a command open.
    for record in read_records(lambda _: None):
        if is_running(record):
            os.killpg(record.pid, signal.SIGKILL)
    for process in command.started:
        process.communicate()


Export = Callable[..., Path]


@pytest.fixture
def export(home: Path) -> Export:
    """Writes a version of a model of the echo backend into the store; returns its base path."""

    def write(
        model: str = "m", version: int = 1, *, is_random: bool = False, **config: object
    ) -> Path:
        base = Store().base_path("echo", model)
        folder = base / str(version)
        folder.mkdir(parents=True)
        (folder / "echo.json").write_text(json.dumps(config))
        _manifest(model, is_random=is_random).write(folder, LABELS)
        return base

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
def until() -> Callable[[Callable[[], Any]], Any]:
    """Waits for a condition: returns its first true value, or fails after 30 s."""

    def wait(condition: Callable[[], Any]) -> Any:
        give_up = time.monotonic() + 30
        while not (value := condition()):
            assert time.monotonic() < give_up, "the condition did not come true"
            time.sleep(0.02)
        return value

    return wait
