"""Cold start: what one `mlserve predict` costs before the server even sees it.

Times whole processes, in turn, against the same server: `mlserve --help`, `mlserve predict` and the
usual TensorFlow Serving client. From the two clients the time of the call itself is taken off.
Prints medians and peak memory. Targets: help 0.25 s, predict 0.35 s.

    python benchmarks/cold_start.py [--runs 10]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from served_model import IMAGE, MLSERVE, ServedModel, served_model


@dataclass
class Candidate:
    """A command to time; `call_seconds` extracts the server call's time from its output."""

    name: str
    argv: list[str]
    call_seconds: Callable[[str], float]
    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0

    def run(self, env: dict[str, str]) -> None:
        started = time.perf_counter()
        child = subprocess.Popen(
            self.argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert child.stdout is not None
        printed = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        elapsed = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{self.name} ended with {child.returncode}")
        self.seconds.append(elapsed - self.call_seconds(printed))
        self.peak_mib = max(self.peak_mib, usage.ru_maxrss / 1024)


def _candidates(server: ServedModel) -> list[Candidate]:
    target = ["--endpoint", server.grpc_endpoint, "--model", server.model]
    predict = [*MLSERVE, "predict", str(IMAGE), *target, "--timeout", "30", "--output", "json"]
    usual = [sys.executable, str(Path(__file__).with_name("usual_client.py")), str(IMAGE), *target]
    return [
        Candidate("mlserve --help", [*MLSERVE, "--help"], lambda _: 0.0),
        Candidate(
            "mlserve predict",
            predict,
            lambda out: _exchange_seconds(json.loads(out)["timings_ms"]),
        ),
        Candidate("usual client", usual, lambda out: float(out.splitlines()[-1])),
    ]


def _exchange_seconds(timings_ms: dict[str, float | None]) -> float:
    """Return the time of the call itself: server and network."""
    parts = ("queue", "decode", "run", "encode", "receive")
    return sum(timings_ms[part] or 0.0 for part in parts) / 1000


def main() -> None:
    """Run every candidate in turn and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    with served_model() as server:
        candidates = _candidates(server)
        for _ in range(runs + 1):
            for candidate in candidates:
                candidate.run(server.env)
    usual = candidates[-1]
    print(f"{'command':<18}{'median s':>10}{'min':>8}{'max':>8}{'peak MiB':>10}{'vs usual':>10}")
    for candidate in candidates:
        counted = candidate.seconds[1:]  # the first run warms the page cache
        median = statistics.median(counted)
        ratio = statistics.median(usual.seconds[1:]) / median
        print(
            f"{candidate.name:<18}{median:>10.3f}{min(counted):>8.3f}{max(counted):>8.3f}"
            f"{candidate.peak_mib:>10.0f}{ratio:>9.1f}x"
        )


if __name__ == "__main__":
    main()
