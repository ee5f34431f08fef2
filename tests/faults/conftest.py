"""Servers of the echo backend to be mistreated, and commands that ask them meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.artifact import Artifact
from mlserve.server.tfs.tensor_proto import from_array
from mlserve.tensors import DType
from mlserve.testing.processes import ServerProcess, launched
from mlserve.wire.proto.serving_pb2 import PredictRequest

PHOTO = b"\xff\xd8\xff a photo"


@dataclass
class EchoServers:
    """Starts servers of one model `m`; `journal` has a line for each run."""

    base_path: Path
    stack: ExitStack

    @property
    def journal(self) -> Path:
        return self.base_path.parent / "journal"

    def runs(self) -> list[str]:
        return self.journal.read_text().splitlines()

    def put(self, version: int, **config: Any) -> Path:
        """A version folder, which appears whole."""
        incoming = self.base_path / f".incoming-{version}"
        incoming.mkdir(parents=True)
        self.journal.touch()
        (incoming / "echo.json").write_text(json.dumps({"journal": str(self.journal), **config}))
        return incoming.rename(self.base_path / str(version))

    def __call__(self, *options: str, **config: Any) -> ServerProcess:
        """A server whose version 1 is ready."""
        if not (self.base_path / "1").exists():
            self.put(1, **config)
        artifact = Artifact.open(self.base_path, "m", 1)
        server = self.stack.enter_context(launched("echo", artifact, *options))
        server.wait_ready()
        return server


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[EchoServers]:
    with ExitStack() as stack:
        yield EchoServers(tmp_path / "m", stack)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PHOTO)
    return path


@pytest.fixture
def predicting(photo: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `mlserve predict` at an endpoint; its errors are JSON."""
    started: list[subprocess.Popen[str]] = []

    def start(endpoint: str, *options: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "mlserve", "predict", str(photo), "--output", "json"]
        process = subprocess.Popen(
            [*argv, "--endpoint", endpoint, "--model", "m", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"NO_COLOR": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def slow_request() -> Callable[[float], PredictRequest]:
    """A request that runs for so many seconds."""

    def build(seconds: float) -> PredictRequest:
        request = PredictRequest()
        request.model_spec.name = "m"
        request.model_spec.signature_name = "slow"
        array = np.array([seconds], np.float32)
        request.inputs["seconds"].CopyFrom(from_array(array, DType.FLOAT32))
        return request

    return build
