"""The real command as a process, and a real server to talk to."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest


@dataclass(frozen=True)
class EchoServer:
    """Where the embedded server with the echo backend listens; it serves `inception_v3`."""

    grpc: str
    rest: str
    process: subprocess.Popen[str]

    def endpoint(self, protocol: str) -> str:
        return self.grpc if protocol == "grpc" else self.rest


StartEcho = Callable[..., EchoServer]


@pytest.fixture(scope="session")
def start_echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartEcho]:
    """`start_echo(delay=10)` starts an embedded server whose echo model is configured so.

    What stands before the configuration are flags of the server.
    """
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str, **config: object) -> EchoServer:
        base = tmp_path_factory.mktemp("echo")
        (base / "1").mkdir()
        (base / "1" / "echo.json").write_text(json.dumps(config))
        log = (base / "log").open("w")
        options = ["--backend", "echo", "--model", "inception_v3", "--base-path", str(base)]
        ports = ["--host", "127.0.0.1", "--grpc-port", "0", "--rest-port", "0"]
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mlserve.server", *options, *ports, *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        started.append(process)
        grpc, rest = _addresses(base / "log", process)
        scheme = "https" if any(flag.startswith("--tls-cert") for flag in flags) else "http"
        return EchoServer(grpc, f"{scheme}://{rest}", process)

    yield start
    for process in started:
        process.kill()
    for process in started:
        process.wait()


@pytest.fixture(scope="session")
def echo(start_echo: StartEcho) -> EchoServer:
    """An embedded server that answers every image with `sorrel`, but refuses b"bad..."."""
    return start_echo()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file that the echo backend takes for an image."""
    path = tmp_path / "horse.jpg"
    path.write_bytes(b"\xff\xd8\xff a photo of a horse")
    return path


def _addresses(log: Path, process: subprocess.Popen[str]) -> tuple[str, str]:
    """The ports that the server took, once its model is available."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and process.poll() is None:
        text = log.read_text()
        found = re.search(r"grpc=(\S+) rest=(\S+)", text)
        if found and "is available" in text:
            return found[1], found[2]
        time.sleep(0.02)
    pytest.fail(f"the echo server did not come up:\n{log.read_text()}")


@pytest.fixture
def mlserve_argv() -> list[str]:
    """How to run the command from a test that needs its process."""
    return [sys.executable, "-m", "mlserve"]


@pytest.fixture
def faulty_once() -> Iterator[Callable[[bytes], str]]:
    """`faulty_once(answer)` is the `host:port` of a server that answers every request so."""
    with ExitStack() as stack:

        def serve(answer: bytes) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            Thread(target=_answer_all, args=(listener, answer), daemon=True).start()
            return f"127.0.0.1:{listener.getsockname()[1]}"

        yield serve


def _answer_all(listener: socket.socket, answer: bytes) -> None:
    with suppress(OSError):  # closed when the test ends
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                connection.recv(65536)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    continue
