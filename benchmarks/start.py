"""From a start to the first answer: mlserve's server, `mlserve up`, and the usual server, in turn.

One ONNX file, EfficientNet-Lite0, and one process each. A server is ready when it answers an image
over REST with a 200; `mlserve up` when it returns. CPU is what the server itself has used until
then, and for `up` what the command has; memory is the server's after 50 answers. Targets: ready and
RSS not above the usual server's, and `up` at most 0.5 s above the server's own start. Prints the
medians, and the median of the differences of each round.

    python benchmarks/start.py [--runs 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from served_model import IMAGE, MLSERVE

BACKEND, MODEL = "onnxruntime", "efficientnet_lite0"
ANSWERS = 50
PAUSE = 0.005
LIMIT = 60.0
SERVER, UP, USUAL = "mlserve.server", "mlserve up", "uvicorn, FastAPI"


@dataclass(frozen=True)
class Start:
    """One start: seconds until it was ready, CPU seconds, and the server's memory in MB."""

    ready: float
    cpu: float
    rss: float
    pss: float


@dataclass(frozen=True)
class Subject:
    """A server to start: its command line for a port, and what it is asked."""

    argv: Callable[[int], Sequence[str]]
    path: str
    body: bytes
    content_type: str
    env: dict[str, str]

    def start(self) -> Start:
        """Start it, wait for its first answer, ask it some more, and stop it."""
        port = _free_port()
        began = time.perf_counter()
        with _process(self.argv(port), self.env) as process:
            while not self._answers(port):
                if process.poll() is not None or time.perf_counter() - began > LIMIT:
                    raise SystemExit(f"{' '.join(self.argv(port))} does not answer")
                time.sleep(PAUSE)
            ready = time.perf_counter() - began
            server = psutil.Process(process.pid)
            times = server.cpu_times()
            for _ in range(ANSWERS):
                self._answers(port)
            memory = server.memory_full_info()
            return Start(ready, times.user + times.system, memory.rss / 1e6, memory.pss / 1e6)

    def _answers(self, port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        try:
            headers = {"Content-Type": self.content_type}
            connection.request("POST", self.path, self.body, headers)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def _process(argv: Sequence[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(argv, env=env, cwd=Path(__file__).parent, **quiet) as process:
        try:
            yield process
        finally:
            process.terminate()


def _subjects(version: Path, env: dict[str, str]) -> dict[str, Subject]:
    image = IMAGE.read_bytes()
    asked = json.dumps({"inputs": [{"b64": base64.b64encode(image).decode()}]}).encode()
    model = ("--backend", BACKEND, "--model", MODEL, "--base-path", str(version.parent))
    python = (sys.executable, "-m")
    return {
        SERVER: Subject(
            lambda port: (
                *(*python, "mlserve.server", *model, "--grpc-port", "0"),
                *("--rest-port", str(port)),
            ),
            f"/v1/models/{MODEL}:predict",
            asked,
            "application/json",
            env,
        ),
        USUAL: Subject(
            lambda port: (*python, "uvicorn", "usual_server:app", "--port", str(port)),
            "/predict",
            image,
            "image/jpeg",
            {**env, "MODEL_FILE": str(version / "model.onnx")},
        ),
    }


def _start_with_up(env: dict[str, str]) -> Start:
    """Time `mlserve up`; the CPU is the command's own, as its server is not its child any more."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    _run(env, "up", "--backend", BACKEND, "--launcher", "embedded", *("--rest-port", "0"))
    ready = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (record,) = json.loads(_run(env, "ps", "--output", "json"))
    memory = psutil.Process(record["pid"]).memory_full_info()
    _run(env, "down", "--all")
    return Start(ready, cpu, memory.rss / 1e6, memory.pss / 1e6)


def _run(env: dict[str, str], *args: str) -> str:
    argv = [*MLSERVE, *args]
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    return done.stdout


def _measure(runs: int) -> dict[str, list[Start]]:
    """Start each in turn, one round more than asked: the first fills the page cache."""
    with tempfile.TemporaryDirectory(prefix="mlserve-bench-") as home:
        env = {**os.environ, "MLSERVE_HOME": home}
        exported = _run(env, "export", "--backend", BACKEND, "--model", MODEL)
        subjects = _subjects(Path(exported.splitlines()[0]), env)
        starts: dict[str, list[Start]] = {SERVER: [], UP: [], USUAL: []}
        for number in range(runs + 1):
            found = {name: subject.start() for name, subject in subjects.items()}
            found[UP] = _start_with_up(env)
            for name, start in found.items() if number else ():
                starts[name].append(start)
        return starts


def _print_tables(starts: dict[str, list[Start]]) -> None:
    print(f"{'':<18}{'ready s':>9}{'min':>8}{'CPU s':>8}{'RSS MB':>9}{'PSS MB':>9}")
    for name, rows in starts.items():
        ready, cpu, rss, pss = (
            statistics.median(getattr(row, column) for row in rows)
            for column in ("ready", "cpu", "rss", "pss")
        )
        least = min(row.ready for row in rows)
        print(f"{name:<18}{ready:>9.3f}{least:>8.3f}{cpu:>8.2f}{rss:>9.0f}{pss:>9.0f}")
    rounds = list(zip(starts[SERVER], starts[USUAL], starts[UP], strict=True))
    judged = (
        ("ready, part of the usual", [own.ready / usual.ready for own, usual, _ in rounds], 1.0),
        ("RSS, part of the usual", [own.rss / usual.rss for own, usual, _ in rounds], 1.0),
        ("`up` above the server, s", [up.ready - own.ready for own, _, up in rounds], 0.5),
    )
    print(f"\n{'':<28}{'measured':>10}{'target':>10}")
    for name, values, target in judged:
        print(f"{name:<28}{statistics.median(values):>10.2f}{f'<= {target:.2f}':>10}")


def main() -> None:
    """Measure, print the tables, and write the file that `--json` names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write every start")
    options = parser.parse_args()
    starts = _measure(options.runs)
    _print_tables(starts)
    if options.json is not None:
        written = {name: [asdict(row) for row in rows] for name, rows in starts.items()}
        options.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
