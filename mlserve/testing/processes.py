"""Run a server process on ports chosen by the operating system, and wait for it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from mlserve.artifact import Artifact
from mlserve.client import Client
from mlserve.client.endpoint import Api
from mlserve.errors import Unavailable

T = TypeVar("T")
START_SECONDS = 60.0
"""The time limit for a server to load its model: importing a runtime is slow."""


def wait_until(condition: Callable[[], T | None], timeout: float = START_SECONDS) -> T:
    """Return what `condition` returns once it is truthy. Raises AssertionError on timeout."""
    until = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < until, f"not within {timeout:g} s: {condition}"
        time.sleep(0.02)
    return value


class ServerProcess:
    """A running `python -m mlserve.server`."""

    def __init__(self, process: subprocess.Popen[bytes], model: str, log_path: Path) -> None:
        self.process = process
        self.model = model
        self.log_path = log_path

    @property
    def grpc(self) -> str:
        """Return the gRPC port as `host:port`; wait until the server listens."""
        return self._addresses[0]

    @property
    def rest(self) -> str:
        """Return the REST port as `host:port`; wait until the server listens."""
        return self._addresses[1]

    def wait_listening(self) -> None:
        """Wait until both ports are open. Raises AssertionError if the server ends before."""
        assert self._addresses

    def endpoint(self, protocol: str) -> str:
        """Return the address for a client; `protocol` is "grpc" or "rest"."""
        return self.grpc if protocol == "grpc" else f"http://{self.rest}"

    def client(self, protocol: str = "grpc", api: Api | None = None) -> Client:
        """Return a client of the model; without `api` it detects what the server speaks."""
        return Client(self.endpoint(protocol), model=self.model, api=api)

    def log(self) -> str:
        """Return the server's log so far."""
        return self.log_path.read_text()

    def state(self, version: int) -> str:
        """Return the state of that version; empty if the server does not know it."""
        assert self.process.poll() is None, self.log()
        with self.client() as client:
            try:
                versions = client.status(timeout=10)
            except Unavailable:
                return ""
        return next((found.state for found in versions if found.version == version), "")

    def wait_ready(self, version: int = 1) -> None:
        """Wait until that version is served."""
        wait_until(lambda: self.state(version) == "AVAILABLE")

    @cached_property
    def _addresses(self) -> tuple[str, str]:
        return wait_until(self._read_addresses)

    def _read_addresses(self) -> tuple[str, str] | None:
        found = re.search(r"listening grpc=(\S+) rest=([^\s\"]+)[\"\n]", self.log())
        assert found or self.process.poll() is None, self.log()
        return (found[1], found[2]) if found else None


@contextmanager
def launched(
    backend: str, artifact: Artifact, *options: str, python: str = sys.executable
) -> Iterator[ServerProcess]:
    """Start a server of the artifact's base path, yield it once it listens, then stop it."""
    ports = ("--grpc-port", "0", "--rest-port", "0", "--poll-seconds", "0.1")
    served = ("--backend", backend, "--model", artifact.model)
    base_path = ("--base-path", str(artifact.path.parent))
    argv = [python, "-m", "mlserve.server", *served, *base_path, *ports, *options]
    with tempfile.TemporaryDirectory(prefix="mlserve-test-") as folder:
        log_path = Path(folder) / "log"
        with (
            log_path.open("wb") as log,
            subprocess.Popen(argv, stderr=log, cwd=folder) as process,
            stopping(process),
        ):
            server = ServerProcess(process, artifact.model, log_path)
            server.wait_listening()
            yield server


@contextmanager
def stopping(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stop the process at the end of the block; kill it if it does not drain in time."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
