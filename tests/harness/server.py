"""Run a server of the echo backend as a process, on system-assigned ports."""

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
    """A running server, queried over REST."""

    is_tls = False

    def endpoint(self, protocol: str) -> str:
        """Return the address for a client; `protocol` is "grpc" or "rest"."""
        scheme = "https" if self.is_tls else "http"
        return self.grpc if protocol == "grpc" else f"{scheme}://{self.rest}"

    def state(self, version: int) -> str:
        """Return the state of that version; empty if there is none."""
        found = [row["state"] for row in self._versions() if row["version"] == str(version)]
        return found[0] if found else ""

    def is_available(self) -> bool:
        """Return whether a version is served."""
        assert self.process.poll() is None, self.log()
        return any(row["state"] == "AVAILABLE" for row in self._versions())

    def has_loaded(self) -> bool:
        """Like `is_available`, but by the log: for servers that refuse unauthenticated requests."""
        assert self.process.poll() is None, self.log()
        return " is available" in self.log()

    def post(self, body: Any, path: str = "", **options: Any) -> Any:
        """Post JSON to a path, by default TensorFlow Serving's Predict; return the response."""
        path = path or f"/v1/models/{self.model}:predict"
        return httpx.post(f"http://{self.rest}{path}", json=body, timeout=30, **options)

    def answers(self) -> bool:
        """Return whether an image gets its label."""
        return bool(self.post({"inputs": ["x"]}).status_code == 200)

    def in_flight(self) -> int:
        """Return how many calls it runs and lets wait."""
        shown = httpx.get(f"http://{self.rest}/v2", timeout=30).json()["parameters"]
        return int(shown["running"] + shown["waiting"])

    def is_quiet(self) -> bool:
        """Assert that the log is free of errors caused by clients' connections; return True."""
        told = (line for line in self.log().splitlines() if " INFO " not in line)
        assert not [line for line in told if " more failed in the last " not in line]
        return True

    def exit_code(self) -> int:
        """Wait until the server has ended; return its exit code."""
        return self.process.wait(60)

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
    """Start a server of the model, yield it at once, and stop it at the end."""
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
    """Serve version 7 of a model in that folder; yield the server once it is available.

    `wait` replaces the check for availability, for servers that do not answer it to everybody.
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
        """Start a server and wait until version 1 is ready; `config` is what that version
        answers."""
        if not (self.model.base_path / "1").exists():
            self.model.put(1, **config)
        server = self.stack.enter_context(running(self.model, next(self._logs), *flags))
        server.wait_ready()
        return server
