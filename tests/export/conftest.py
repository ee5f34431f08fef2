"""What the export tests share: a store, and a way to run code in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlserve.sources import ModelRequest
from mlserve.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def request_echo() -> ModelRequest:
    """A request for the model `echo`, which the installed echo plugin gives."""
    return ModelRequest("echo")


StartPython = Callable[[str, Path], "subprocess.Popen[str]"]


@pytest.fixture
def start_python() -> Iterator[StartPython]:
    """Starts Python code in a process of its own; it is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, argument: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(argument)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
