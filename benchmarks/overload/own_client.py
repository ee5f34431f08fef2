"""Loads by mlserve's own client, in two processes: they share what they learn of a server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from callers import Plan
from served import Server

from mlserve.bench.server_process import ServerProcesses
from mlserve.bench.tally import End, Tally

_PROCESSES = 2
_START = 0.2
"""Seconds until all processes have been told when to start."""
_CALLERS = Path(__file__).with_name("callers.py")


def run_own_client(
    server: Server, model: str, transport: str, rate: float, seconds: float, timeout: float
) -> Tally:
    """Call at random moments, `rate` a second; 0 is four callers, one call after the other."""
    endpoint = server.grpc if transport == "grpc" else f"http://{server.rest}"
    plan = Plan(endpoint, model, rate, 2, seconds, timeout, count=_PROCESSES)
    callers = [_started(replace(plan, index=index)) for index in range(_PROCESSES)]
    start = _begin(callers)
    watched = ServerProcesses([server.pid])
    watched.look()
    time.sleep(max(0.0, start - time.monotonic()))
    watched.start()
    time.sleep(seconds)
    watched.stop()
    return _tally(callers, seconds, watched.cpu_seconds())


def _started(plan: Plan) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(_CALLERS), json.dumps(asdict(plan))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _begin(callers: list[subprocess.Popen[str]]) -> float:
    """Have all begin at the same moment, once each has had an answer; return the moment.

    Raises SystemExit if one has ended before.
    """
    for process in callers:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit("callers.py has ended: see its error above")
    start = time.monotonic() + _START
    for process in callers:
        assert process.stdin is not None
        process.stdin.write(f"{start}\n")
        process.stdin.flush()
    return start


def _tally(callers: list[subprocess.Popen[str]], seconds: float, server_cpu: float | None) -> Tally:
    tally = Tally(seconds=seconds, server_cpu=server_cpu)
    for process in callers:
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"callers.py ended with {process.returncode}: see its error above")
        found = json.loads(said)
        tally.generator_cpu += found["cpu"]
        tally.busiest_generator = max(tally.busiest_generator, found["cpu"] / seconds)
        for planned, ended, kind in found["ends"]:
            tally.ends.append(End(planned, ended, kind, ""))
            tally.latencies[kind].add(ended - planned)
    return tally
