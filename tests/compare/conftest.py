"""Exported models of the test backend `echo`, images, and `mlserve compare` as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest


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
def export(export: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a version of the model `m`, version first: most comparisons are between versions."""

    def write(version: int = 1, model: str = "m", **config: Any) -> Path:
        return export(model, version, **config)

    return write


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two files that the echo backend takes for images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.png"):
        (folder / name).write_bytes(b"an image")
    return folder
