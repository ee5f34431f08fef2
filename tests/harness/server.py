"""A server of the echo backend as a process, on ports of the system's choice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from mlserve.testing.processes import ServerProcess, stopping, wait_until
from tests.harness.echo import EchoModel

MODEL = "m"


class EchoServer(ServerProcess):
    """A running server, and what a test asks it over REST."""

    is_tls = False

    def endpoint(self, protocol: str) -> str:
        """Where to point a client: `protocol` is "grpc" or "rest"."""
        scheme = "https" if self.is_tls else "http"
        return self.grpc if protocol == "grpc" else f"{scheme}://{self.rest}"

    def state(self, version: int) -> str:
        """The state of that version; empty when there is none."""
        found = [row["state"] for row in self._versions() if row["version"] == str(version)]
        return found[0] if found else ""

    def is_available(self) -> bool:
        """Whether a version is served."""
        assert self.process.poll() is None, self.log()
        return any(row["state"] == "AVAILABLE" for row in self._versions())

    def has_loaded(self) -> bool:
        """The same by the log, of a server that does not answer everybody."""
        assert self.process.poll() is None, self.log()
        return " is available" in self.log()

    def post(self, body: Any, path: str = "", **options: Any) -> Any:
        """The response to that JSON at a path, which is TensorFlow Serving's Predict if empty."""
        path = path or f"/v1/models/{self.model}:predict"
        return httpx.post(f"http://{self.rest}{path}", json=body, timeout=30, **options)

    def answers(self) -> bool:
        """Whether an image gets its label."""
        return bool(self.post({"inputs": ["x"]}).status_code == 200)

    def is_quiet(self) -> bool:
        """Whether the log holds nothing of what strangers did to the connections."""
        told = (line for line in self.log().splitlines() if " INFO " not in line)
        assert not [line for line in told if " more failed in the last " not in line]
        return True

    def exit_code(self) -> int:
        """What the server ended with, once it has."""
        return self.process.wait(20)

    def _versions(self) -> list[dict[str, Any]]:
        answer = httpx.get(f"http://{self.rest}/v1/models/{self.model}").json()
        versions: list[dict[str, Any]] = answer.get("model_version_status", [])
        return versions


@contextmanager
def running(
    model: EchoModel,
    log_path: Path,
    *flags: str,
    program: Sequence[str] = ("-m", "mlserve.server"),
) -> Iterator[EchoServer]:
    """A server of the model, at once; it is stopped at the end."""
    served = ("--backend", "echo", "--model", model.name, "--base-path", str(model.base_path))
    ports = ("--grpc-port", "0", "--rest-port", "0", "--poll-seconds", "0.05")
    argv = [sys.executable, *program, *served, *ports, *flags]
    with (
        log_path.open("wb") as log,
        subprocess.Popen(argv, stderr=log) as process,
        stopping(process),
    ):
        server = EchoServer(process, model.name, log_path)
        server.is_tls = any(flag.startswith("--tls-cert") for flag in flags)
        yield server


@contextmanager
def serving(
    folder: Path, *flags: str, wait: Callable[[EchoServer], bool] | None = None
) -> Iterator[EchoServer]:
    """A server of version 7 of a model in that folder, once it is available.

    `wait` tells when it is, of a server that does not tell everybody.
    """
    model = EchoModel(folder / MODEL)
    model.put(7)
    with running(model, folder / "log", *flags) as server:
        wait_until(server.is_available if wait is None else partial(wait, server))
        yield server


class EchoServers:
    """Servers of one model, which run until `stack` ends; the first start writes version 1."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.model = EchoModel(folder / MODEL)
        self.stack = stack
        self._logs = (folder / f"log{number}" for number in count(1))

    def __call__(self, *flags: str, **config: Any) -> EchoServer:
        """A server whose version 1 is ready; `config` is what that version answers."""
        if not (self.model.base_path / "1").exists():
            self.model.put(1, **config)
        server = self.stack.enter_context(running(self.model, next(self._logs), *flags))
        server.wait_ready()
        return server
