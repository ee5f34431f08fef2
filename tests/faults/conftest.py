"""Servers of the echo backend to be mistreated, and commands that ask them meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from mlserve.server.tfs.tensor_proto import from_array
from mlserve.tensors import DType
from mlserve.wire.proto.serving_pb2 import PredictRequest
from tests.harness.command import Command
from tests.harness.server import EchoServers


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[EchoServers]:
    """Starts servers of one model `m`."""
    with ExitStack() as stack:
        yield EchoServers(tmp_path, stack)


@pytest.fixture
def predicting(cli: Command, photo: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `mlserve predict` at an endpoint; its errors are JSON."""

    def start(endpoint: str, *options: str) -> subprocess.Popen[str]:
        target = ("--endpoint", endpoint, "--model", "m")
        return cli.start("predict", photo, "--output", "json", *target, *options)

    return start


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
