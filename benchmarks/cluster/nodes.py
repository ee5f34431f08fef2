"""Several Ray nodes on one machine, each with a loopback address of its own, that can be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_STARTED = "Ray runtime started"
_STARTS_WITHIN = 120.0
_LOOK = 0.1
_STORE_BYTES = 80_000_000


@dataclass
class Node:
    """One node: its address, and the process that has all of its processes below it."""

    address: str
    process: subprocess.Popen[bytes]

    @property
    def processes(self) -> list[psutil.Process]:
        """All its processes that live, its workers too."""
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        return []

    @property
    def raylet(self) -> psutil.Process:
        """The process that speaks for the node."""
        return next(p for p in self.processes if p.name() == "raylet")

    def kill(self) -> None:
        """End everything at once, as a machine that loses its power."""
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def silence(self) -> None:
        """Stop everything, so that the node neither answers nor closes a connection."""
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()


@dataclass
class Cluster:
    """A Ray cluster on 127.0.0.2, .3, and so on. `address` is that of the head."""

    folder: Path
    port: int
    nodes: list[Node] = field(default_factory=list)
    _last: int = 1

    @property
    def address(self) -> str:
        """Where it is joined."""
        return f"{self.nodes[0].address}:{self.port}"

    def add(self, cpus: int) -> Node:
        """Start one more node with that many CPUs, of which Ray only keeps count."""
        self._last += 1
        host = f"127.0.0.{self._last}"
        where = (
            ("--address", self.address)
            if self.nodes
            else (
                *("--head", f"--port={self.port}", f"--temp-dir={self.folder}"),
                "--include-dashboard=false",
            )
        )
        log = self.folder / f"{host}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block"),
                    *("--node-ip-address", host, "--num-cpus", str(cpus), "--num-gpus=0"),
                    "--disable-usage-stats",
                    f"--object-store-memory={_STORE_BYTES}",
                ],
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
            )
        give_up = time.monotonic() + _STARTS_WITHIN
        while _STARTED not in log.read_text():
            if process.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"the node {host} does not start:\n{log.read_text()[-2000:]}")
            time.sleep(_LOOK)
        self.nodes.append(Node(host, process))
        return self.nodes[-1]

    def processes_named(self, title: str) -> list[psutil.Process]:
        """The worker processes with that title, such as `ray::ServeController`."""
        return named(title, (process for node in self.nodes for process in node.processes))

    def end(self) -> None:
        """End all nodes, the last one first."""
        for node in reversed(self.nodes):
            node.kill()
        self.nodes.clear()


@contextmanager
def cluster(nodes: int, cpus: int) -> Iterator[Cluster]:
    """Run a cluster of so many nodes, each with so many CPUs."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as name:
        with socket.socket() as one:
            one.bind(("127.0.0.2", 0))
            port = one.getsockname()[1]
        ours = Cluster(Path(name), port)
        try:
            for _ in range(nodes):
                ours.add(cpus)
            yield ours
        finally:
            ours.end()


def named(title: str, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those of the processes whose title begins so."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
            if process.cmdline()[0].startswith(title):
                found.append(process)
    return found


def kill(process: psutil.Process) -> None:
    """End a process at once."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
