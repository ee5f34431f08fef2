"""Run `mlserve-model-server` as a process, and query it over REST."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from mlserve.testing.processes import ServerProcess, stopping
from tests.harness.ports import free_ports

INSTALLED = (str(Path(sys.executable).parent / "mlserve-model-server"),)
"""The installed command, which serves SavedModels."""
_PROGRAM = """
import sys
from mlserve import plugins
from mlserve_model_server.command import run
backend, *flags = sys.argv[1:]
sys.exit(run(flags, plugins.backend(backend)))
"""
ECHO = (sys.executable, "-c", _PROGRAM, "echo")
"""The command with models of the backend `echo`."""


class ModelServer(ServerProcess):
    """A running model server on given ports."""

    def __init__(
        self, process: subprocess.Popen[bytes], log_path: Path, ports: Sequence[int]
    ) -> None:
        super().__init__(process, "default", log_path)
        self._ports = ports
        self._http = httpx.Client(base_url=f"http://{self.rest}/", timeout=20, verify=False)

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def rest(self) -> str:
        return f"127.0.0.1:{self._ports[1]}"

    def close(self) -> None:
        self._http.close()

    def predict(self, where: str) -> httpx.Response:
        """Return the response of `<model>[/versions/n|/labels/l]`."""
        return self.post(where, {"inputs": ["x"]})

    def post(self, where: str, body: Any) -> httpx.Response:
        return self.ask(f"{where}:predict", body)

    def ask(self, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        """Return the response to a POST of `<model>...:<verb>`."""
        return self._http.post(f"v1/models/{path}", json=body, headers=headers)

    def get(self, path: str) -> httpx.Response:
        return self._http.get(path)

    def label(self, where: str) -> str:
        answer = self.predict(where)
        return answer.json()["outputs"][0] if answer.status_code == 200 else answer.text

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return self.get("v2/health/ready").is_success
        except httpx.TransportError:
            return False


@contextmanager
def started(command: Sequence[str], log_path: Path, *flags: str) -> Iterator[ModelServer]:
    """Start a model server with that command, yield it at once, and stop it at the end."""
    ports = free_ports(2)
    argv = [*command, f"--port={ports[0]}", f"--rest_api_port={ports[1]}", *flags]
    with (
        log_path.open("wb") as log,
        subprocess.Popen(argv, stderr=log) as process,
        stopping(process),
    ):
        server = ModelServer(process, log_path, ports)
        try:
            yield server
        finally:
            server.close()
