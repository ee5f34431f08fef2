"""The usual server of such a model, for comparison: FastAPI, uvicorn, ONNX Runtime."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from served import AGENT, Installation, Server, jpeg

from mlserve.bench.connection import Request
from mlserve.bench.load import ClosedLoop, Window, run_load
from mlserve.bench.target import Target
from mlserve.client.adapter import Call
from mlserve.client.endpoint import Connection

_FOLDER = Path(__file__).parents[1]
_PART_OF_LIMIT = 0.8
"""The limit that suits a load: what can be answered within a caller's wait, less a fifth."""


@dataclass(frozen=True)
class UsualServer(Server):
    """It speaks HTTP only, has one model, and tells nothing of its work."""

    def request(
        self,
        model: str,
        transport: str,
        wait: float,
        *,
        is_told: bool = True,
        is_bright: bool = False,
    ) -> Request:
        call = Call("/predict", jpeg(), {"content-type": "image/jpeg", "user-agent": AGENT})
        to = Connection.to(self.rest, "rest")
        (ready,) = Target.of_calls("usual", to, [call], wait, is_told=is_told).requests
        return ready

    def work(self) -> dict[str, int]:
        return {}


@contextmanager
def serving_usual(
    installation: Installation, model: str, limited_for: float | None
) -> Iterator[Server]:
    """Serve the model, with the best limit of concurrency for callers that wait so long, or none.

    Raises SystemExit for models that sleep: this server runs ONNX files only.
    """
    if installation.sleeps:
        raise SystemExit("the usual server has no model that sleeps: leave --sleeping out")
    installation.export(model)
    file, flags = installation.home / f"{model}.onnx", tuple[str, ...]()
    if limited_for is not None:
        with _uvicorn(file, installation) as server:
            target = server.target([server.request(model, "rest", 30.0)], "rest")
            capacity = run_load(target, ClosedLoop(4), Window(5.0, 1.0, 30.0)).goodput
        limit = max(2, int(_PART_OF_LIMIT * limited_for * capacity))
        flags = ("--limit-concurrency", str(limit))
    with _uvicorn(file, installation, *flags) as server:
        yield server


@contextmanager
def _uvicorn(file: Path, installation: Installation, *flags: str) -> Iterator[Server]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    argv = [sys.executable, "-m", "uvicorn", "usual_server:app", "--port", str(port), *flags]
    quiet = ["--log-level", "critical", "--no-access-log"]
    env = {**os.environ, "MODEL_FILE": str(file)}
    with subprocess.Popen([*argv, *quiet], cwd=_FOLDER, env=env) as process:
        try:
            _wait_until_open(port)
            yield UsualServer("", f"127.0.0.1:{port}", process.pid, installation)
        finally:
            process.kill()


def _wait_until_open(port: int, timeout: float = 30.0) -> None:
    until = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
