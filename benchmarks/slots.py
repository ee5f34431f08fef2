"""How a server of many processes keeps them busy: a Runner that sleeps 9 ms without computing.

    python benchmarks/slots.py [--processes 12,24,48] [--seconds 3] [--json FILE]

A server of the tests' echo backend is started with each number of processes and asked over REST by
twice as many clients. With n processes no server can answer more than n / 9 ms requests a second;
the table has the part of that which is reached, and the CPU of the process that has the ports. On
few cores the processes themselves, which wake up for each request, take the rest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from mlserve.bench.load import ClosedLoop, Window
from mlserve.bench.measure import measure
from mlserve.bench.target import Target
from mlserve.testing.processes import ServerProcess, stopping

MODEL = "m"
SLEEP = 0.009
"""Seconds that a call sleeps."""
BODY = b'{"instances": ["an image"]}'


@contextmanager
def serving(folder: Path, processes: int) -> Iterator[tuple[str, int]]:
    """Serve it in that many processes; yield the URL, and the id of the one with the ports."""
    log = folder / f"log-{processes}"
    flags = ("--backend", "echo", "--model", MODEL, "--base-path", str(folder / MODEL))
    ports = ("--grpc-port", "0", "--rest-port", "0", "--processes", str(processes))
    argv = [sys.executable, "-m", "mlserve.server", *flags, *ports]
    with (
        log.open("wb") as output,
        subprocess.Popen(argv, stderr=output) as process,
        stopping(process),
    ):
        server = ServerProcess(process, MODEL, log)
        server.wait_ready()
        yield f"http://{server.rest}/v1/models/{MODEL}:predict", process.pid


def measured(folder: Path, processes: int, seconds: float) -> dict[str, Any]:
    """Return what so many processes answer, and what that costs the server's own process."""
    with serving(folder, processes) as (url, pid):
        target = Target.of_http(f"{processes} processes", url, BODY, timeout=5.0, pids=(pid,))
        server = psutil.Process(pid)
        before = sum(server.cpu_times()[:2])
        window = Window(seconds=seconds, warm_up=1.0, timeout=5.0)
        (found,) = measure([target], [ClosedLoop(2 * processes)], window)
        spent = sum(server.cpu_times()[:2]) - before
    answered = found.goodput * (seconds + 1.0)
    return {
        "processes": processes,
        "goodput": round(found.goodput, 1),
        "of_the_most": round(found.goodput * SLEEP / processes, 3),
        "front_cpu_ms_a_request": round(1000 * spent / max(1.0, answered), 3),
        "p99_ms": 1000 * found.latency(0.99),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", default="12,24,48", metavar="N,...")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    rows = []
    print("processes  answers/s  of the most  front CPU ms  p99 ms")
    with tempfile.TemporaryDirectory() as name:
        version = Path(name) / MODEL / "1"
        version.mkdir(parents=True)
        (version / "echo.json").write_text(json.dumps({"delay": SLEEP}))
        for count in map(int, given.processes.split(",")):
            row = measured(Path(name), count, given.seconds)
            rows.append(row)
            print("{:9}  {:9}  {:11}  {:12}  {:6.1f}".format(*row.values()))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
