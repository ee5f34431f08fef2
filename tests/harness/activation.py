"""What systemd does for a service with sockets, in a few lines: for tests, as any user."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mlserve.testing.processes import stopping, wait_until

_EXEC = """
import os, sys
numbers, argv = [int(n) for n in sys.argv[1].split(",")], sys.argv[2:]
high = [os.dup2(number, 100 + index) for index, number in enumerate(numbers)]
for index, number in enumerate(high):
    os.dup2(number, 3 + index)
os.closerange(3 + len(high), 200)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)))
os.execv(argv[0], argv)
"""


class ServiceManager:
    """Holds the sockets of a service, by name, and starts its process with them.

    What the process tells over its notification socket is read by `told`.
    """

    def __init__(self, folder: Path, sockets: Sequence[tuple[str, socket.socket]]) -> None:
        self.sockets = sockets
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(folder / "notify"))
        self._notified.setblocking(False)
        self._told: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Path | None = None

    def address(self, name: str) -> str:
        """Return host and port of the socket of that name."""
        [found] = [each for other, each in self.sockets if other == name]
        host, port = found.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @contextmanager
    def start(
        self, log: Path, *argv: str, env: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start the program with the sockets; end it after the block."""
        numbers = [each.fileno() for _, each in self.sockets]
        launcher = [sys.executable, "-c", _EXEC, ",".join(map(str, numbers)), *argv]
        names = ":".join(name for name, _ in self.sockets)
        told = {"LISTEN_FDNAMES": names, "NOTIFY_SOCKET": str(self._notified.getsockname())}
        self.forget()
        with (
            log.open("ab") as output,
            subprocess.Popen(
                launcher,
                stdout=output,
                stderr=output,
                env={**os.environ, **told, **(env or {})},
                pass_fds=numbers,
            ) as process,
            stopping(process),
        ):
            self._process, self._log = process, log
            yield process

    def told(self) -> list[str]:
        """Return the lines that have been told since the start."""
        with suppress(BlockingIOError):
            while True:
                self._told += self._notified.recv(4096).decode().split("\n")
        return self._told

    def forget(self) -> None:
        """Forget what was told."""
        self.told()
        self._told = []

    def wait_told(self, line: str) -> None:
        """Wait until that line is told by the process that was started last."""
        wait_until(lambda: self._tells(line))

    def _tells(self, line: str) -> bool:
        process = self._process
        assert process is None or process.poll() is None or line in self.told(), (
            self._log and self._log.read_text()
        )
        return line in self.told()

    def close(self) -> None:
        """Close all sockets."""
        self._notified.close()
        for _, each in self.sockets:
            each.close()


@contextmanager
def service_manager(folder: Path, *, unix: bool = False) -> Iterator[ServiceManager]:
    """Yield one with a TCP socket each for gRPC and REST; with `unix`, REST is a UNIX socket."""
    with ExitStack() as stack:
        grpc = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        rest = socket.socket(socket.AF_UNIX) if unix else socket.create_server(("127.0.0.1", 0))
        stack.enter_context(rest)
        if unix:
            rest.bind(str(folder / "rest.sock"))
        rest.listen(512)
        manager = ServiceManager(folder, [("grpc", grpc), ("rest", rest)])
        stack.callback(manager.close)
        yield manager
