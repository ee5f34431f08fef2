"""What every core test shares: its own home, so that no test sees the user's models or servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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


def pytest_configure() -> None:
    """Lets the commands that tests start be interrupted.

    A shell starts what it runs in the background with SIGINT ignored, and every process below would
    inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that MLSERVE_HOME names, for this test and the processes it starts."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MLSERVE_HOME", str(folder))
    return folder


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


_START = """
import time
began = time.monotonic()
import runpy, sys
print(f"began={began}", file=sys.stderr, flush=True)
runpy.run_module("mlserve", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Outcome:
    """What a command ended with. `seconds` count from its first statement to its end."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    def json(self) -> Any:
        return json.loads(self.stdout)


Mlserve = Callable[..., Outcome]


@pytest.fixture
def mlserve(tmp_path: Path) -> Mlserve:
    """`mlserve("predict", ...)` runs the command in a process of its own, in a folder of its own.

    `stdin` is what to connect its standard input to; `env` is added to its environment.
    """

    def run(*arguments: object, stdin: Any = subprocess.DEVNULL, **env: str) -> Outcome:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, *map(str, arguments)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"NO_COLOR": "1"} | env,
        )
        stdout, stderr = process.communicate(timeout=60)
        ended = time.monotonic()
        first, _, rest = stderr.partition("\n")
        began = float(first.removeprefix("began="))
        return Outcome(process.returncode, stdout, rest, ended - began)

    return run
