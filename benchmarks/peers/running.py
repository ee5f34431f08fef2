"""A server of the comparison while it runs: its processes, its memory, and one answer."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc
import psutil
from environments import ROOT
from exchanges import Answer, Exchange
from servers import SERVING, Launch, Peer, Settings, free_ports

_MARK = "MLSERVE_BENCH_PEER"
"""The environment variable by which all processes of a server are found, also daemons."""
_PATIENCE = 120.0
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied)
_REFUSED = (OSError, http.client.HTTPException, grpc.RpcError, ValueError, KeyError)


class NotStarted(Exception):
    """The server ended, or gave no answer for two minutes."""


@dataclass
class Running:
    """A server that answers. `seconds_to_ready` is from the command to its first answer."""

    peer: Peer
    settings: Settings
    port: int
    process: subprocess.Popen[bytes]
    mark: str
    log: Path
    seconds_to_ready: float = 0.0

    def exchange(self, image: bytes) -> Exchange:
        """Return the request for an image."""
        return self.peer.ask(image)

    def answer(self, image: bytes, timeout: float = 30.0) -> Answer:
        """Ask once. Raises one of several errors when there is no answer."""
        exchange = self.exchange(image)
        return exchange.read(self._reply(exchange, timeout))

    def _reply(self, exchange: Exchange, timeout: float) -> bytes:
        if exchange.is_grpc:
            with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
                return bytes(channel.unary_unary(exchange.path)(exchange.body, timeout=timeout))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with closing(connection):
            connection.request("POST", exchange.path, exchange.body, exchange.headers)
            reply = connection.getresponse()
            body = reply.read()
        if reply.status != HTTPStatus.OK:
            raise ValueError(f"{reply.status}: {body[:500].decode(errors='replace')}")
        return body

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the server."""
        found = []
        for process in psutil.process_iter():
            with suppress(*_GONE):
                if process.environ().get(_MARK) == self.mark:
                    found.append(process)
        return found

    def pss(self) -> int:
        """Return the memory of all its processes in bytes, shared pages divided among sharers."""
        sizes = []
        for process in self.processes():
            with suppress(*_GONE):
                sizes.append(process.memory_full_info().pss)
        return sum(sizes)

    def wait_until_ready(self, image: bytes, began: float) -> None:
        """Return when the server has answered. Raises NotStarted."""
        why = "no answer"
        while time.monotonic() < began + _PATIENCE and self.process.poll() is None:
            try:
                self.answer(image, timeout=10)
            except _REFUSED as error:
                why = str(error)
                time.sleep(0.01)
            else:
                self.seconds_to_ready = time.monotonic() - began
                return
        raise NotStarted(f"{self.peer.name}: {why}\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """End all its processes."""
        for _ in range(3):  # some are restarted by others until those are gone
            for process in self.processes():
                with suppress(*_GONE):
                    process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(
    peer: Peer,
    settings: Settings,
    image: bytes | None,
    cpus: int,
    *,
    model: Path | None = None,
    options: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[Running]:
    """Start a server, and wait for its answer to the image if there is one."""
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as name:
        folder, (port,), mark = Path(name), free_ports(1), secrets.token_hex(8)
        launch = Launch(folder, port, model, settings, cpus, options or {})
        argv, surroundings = peer.command(launch)
        log = folder / "log"
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(map(str, argv)),
                env={**_environment(launch, peer), **surroundings, **(env or {}), _MARK: mark},
                stdout=output,
                stderr=output,
                cwd=folder,  # some write logs and metrics where they are started
                start_new_session=True,
            )
        server = Running(peer, settings, port, process, mark, log)
        try:
            if image is not None:
                server.wait_until_ready(image, began)
            yield server
        finally:
            server.kill()


def _environment(launch: Launch, peer: Peer) -> dict[str, str]:
    """Return the environment variables of a server: what it works with, and nothing of ours."""
    if peer.is_ours:
        return {**os.environ, "MLSERVE_HOME": str(launch.folder)}
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    library = launch.folder / "library"  # mlserve's modules, but nothing else beside them
    library.mkdir()
    (library / "mlserve").symlink_to(ROOT / "mlserve")
    env |= {"PYTHONPATH": f"{library}{os.pathsep}{SERVING}", "RAY_TMPDIR": str(launch.folder)}
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "THREADS": str(launch.settings.threads)}
    return env if launch.model is None else {**env, "MODEL_FOLDER": str(launch.model)}
