"""Fronts and nodes of Ray as processes, a load on them, and what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from mlserve.testing.processes import ServerProcess, wait_until
from tests.harness.echo import EchoModel
from tests.harness.ports import free_ports

SLOW = 120.0
"""Seconds: Ray takes 10 s to start on an idle machine."""


class FrontProcess(ServerProcess):
    """A running `python -m mlserve_ray`."""

    def replicas(self) -> dict[str, Any]:
        """Return what `/mlserve/replicas` says."""
        answer = httpx.get(f"http://{self.rest}/mlserve/replicas", timeout=20)
        found: dict[str, Any] = answer.json()
        return found

    def ready(self) -> list[dict[str, Any]]:
        """Return the replicas that are ready."""
        assert self.process.poll() is None, self.log()
        with suppress(httpx.TransportError):
            return [each for each in self.replicas()["replicas"] if each["state"] == "ready"]
        return []

    def wait_ready_replicas(self, number: int) -> list[dict[str, Any]]:
        """Wait until so many replicas are ready, and return them."""
        wait_until(lambda: len(self.ready()) == number, SLOW)
        return self.ready()

    def label(self) -> str:
        """Return the label of an image."""
        url = f"http://{self.rest}/v1/models/{self.model}:predict"
        answer: dict[str, Any] = httpx.post(url, json={"inputs": ["x"]}, timeout=20).json()
        return str(answer["outputs"][0])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal its process group, as `mlserve down` does; return its exit code."""
        os.killpg(self.process.pid, number)
        return self.process.wait(SLOW)


@contextmanager
def front(model: EchoModel, log: Path, *flags: str) -> Iterator[FrontProcess]:
    """Start a front of the model, yield it at once, and stop it at the end."""
    argv = [sys.executable, "-P", "-m", "mlserve_ray", "--backend", "echo", "--name", "ray-test"]
    argv += [f"--model={model.name}", "--base-path", str(model.base_path)]
    argv += ["--host=127.0.0.1", "--grpc-port=0", "--rest-port=0", *flags]
    with (
        log.open("wb") as output,
        subprocess.Popen(argv, stderr=output, start_new_session=True) as process,
    ):
        started = FrontProcess(process, model.name, log)
        try:
            yield started
        finally:
            if process.poll() is None:
                started.stop()


class RayNode:
    """A node of Ray, at an address of its own on this machine."""

    def __init__(self, folder: Path, address: str, flags: Sequence[str], hidden: Path) -> None:
        """`hidden` is a folder that the node does not see, as another machine would not."""
        folder.mkdir()
        argv = [str(Path(sys.executable).with_name("ray")), "start", "--block", *flags]
        argv += [f"--node-ip-address={address}", f"--temp-dir={folder}", "--num-cpus=2"]
        argv += ["--include-log-monitor=false", "--disable-usage-stats"]
        argv += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=80000000"]
        argv.append(f"--dashboard-agent-listen-port={free_ports(1)[0]}")
        if hidden.name:
            script = f'mount -t tmpfs none "{hidden}" && exec "$@"'
            argv = ["unshare", "-m", "bash", "-c", script, "bash", *argv]
        self.log = folder.with_suffix(".log")
        environment = {"RAY_USAGE_STATS_ENABLED": "0", "MLSERVE_HOME": str(folder / "home")}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                argv,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    def wait_started(self) -> None:
        """Wait until it runs."""
        wait_until(self._has_started, SLOW)

    def _has_started(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "will now block" in self.log.read_text()

    def kill(self) -> None:
        """Kill every process of it at once, as a machine dies."""
        for process in session(self.process.pid):
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()


def session(leader: int) -> list[psutil.Process]:
    """Return the processes of a session that run."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def descendants(pid: int) -> list[psutil.Process]:
    """Return a process and all below it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def running(processes: Sequence[psutil.Process]) -> list[str]:
    """Return the command lines of those that still run."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


class Load:
    """Clients that ask one request after the other, each with 15 s of time."""

    def __init__(self, server: FrontProcess, clients: int = 3) -> None:
        self._url = f"http://{server.rest}/v1/models/{server.model}:predict"
        self.answers: Counter[str] = Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_more(self, number: int = 30) -> None:
        """Wait until so many more requests were answered."""
        until = self.answers.total() + number
        wait_until(lambda: self.answers.total() >= until)

    def _ask(self) -> None:
        headers = {"X-Request-Timeout-Ms": "15000"}
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(self._url, json={"inputs": ["x"]}, headers=headers)
                    ok = answer.status_code == httpx.codes.OK
                    said = (
                        answer.json()["outputs"][0] if ok else f"{answer.status_code} {answer.text}"
                    )
                except httpx.HTTPError as error:
                    said = repr(error)
                self.answers[str(said)] += 1
                time.sleep(0.01)  # a pause between requests, which nothing waits for
