"""What becomes of calls when the load grows beyond one replica, and shrinks again.

A server with `--replicas 1..4` of a model that sleeps gets half of what a replica bears, then 2.5
times that in one step, then a fifth of it. Callers ask at random moments and give each call 1 s.
Printed: how many seconds after the step each further replica was ready, the share of the calls in
time from the first of them on and from the last of them on, and when only one is left.

    python benchmarks/cluster/scale.py [--seconds 60] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nodes import cluster
from run import Server, serving
from subjects import Sleeping
from throughput import DEADLINE, SLEEP

from mlserve.bench.arrivals import Arrivals
from mlserve.bench.load import OpenLoop, Window, run_load
from mlserve.bench.tally import ANSWERED, End
from mlserve.bench.target import Target

MOST = 4
STEP = 2.5
"""The load of the step, in what one replica bears."""
_BEFORE, _AFTER = 0.5, 0.2
_CALM_SECONDS = 10.0
_LOOK = 0.1
_DOWN_WITHIN = 300.0


@dataclass(frozen=True)
class Scaled:
    """What was seen, in seconds since the step, and shares of the calls in time."""

    ready: list[float]
    """When the second replica was ready, the third, and so on."""
    whole: float
    """Of the whole step."""
    since_first: float
    """From the first further replica on."""
    since_last: float
    one_left: float
    """Seconds from the end of the step until one replica is left."""


class Watch:
    """Notes when there were how many replicas, until it is stopped."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self.seen: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(_LOOK):
            self.seen.append((time.monotonic(), len(self._server.ready())))

    def stop(self) -> list[tuple[float, int]]:
        """Return what was seen."""
        self._ended.set()
        self._thread.join()
        return self.seen


def in_time(ends: Sequence[End], since: float, until: float) -> float:
    """Return the share of the calls of that time that were answered in time."""
    meant = [end.kind for end in ends if since <= end.planned < until]
    return meant.count(ANSWERED) / len(meant) if meant else 0.0


def measure(seconds: float) -> Scaled:
    """Bring the load, and see."""
    body = json.dumps({"signature_name": "slow", "inputs": {"seconds": [SLEEP]}}).encode()
    subject = Sleeping()
    with (
        tempfile.TemporaryDirectory(prefix="mlserve-cluster-") as home,
        cluster(2, MOST) as ours,
        serving(Path(home), ours.address, subject, f"1..{MOST}", "--threads", "1") as server,
    ):
        server.wait_for(1)
        url = f"{server.rest}/v1/models/{subject.model}:predict"
        target = Target.of_http("it", url, body, timeout=DEADLINE)
        run_load(
            target,
            OpenLoop(_BEFORE / SLEEP, Arrivals()),
            Window(_CALM_SECONDS, 0.0, DEADLINE),
        )
        watch, began = Watch(server), time.monotonic()
        step = OpenLoop(STEP / SLEEP, Arrivals())
        tally = run_load(target, step, Window(seconds, 0.0, DEADLINE, keeps_ends=True))
        ended = time.monotonic()
        calm = OpenLoop(_AFTER / SLEEP, Arrivals())
        while len(server.ready()) > 1 and time.monotonic() - ended < _DOWN_WITHIN:
            run_load(target, calm, Window(_CALM_SECONDS, 0.0, DEADLINE))
        seen = watch.stop()
    ready = [
        next((at - began for at, count in seen if count >= wanted), seconds)
        for wanted in range(2, 1 + max(count for _, count in seen))
    ]
    one_left = next((at - ended for at, count in seen if at > ended and count == 1), _DOWN_WITHIN)
    return Scaled(
        ready,
        in_time(tally.ends, 0.0, seconds),
        in_time(tally.ends, ready[0] if ready else seconds, seconds),
        in_time(tally.ends, ready[-1] if ready else seconds, seconds),
        one_left,
    )


def main() -> None:
    """Measure, and print what was seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of the step")
    parser.add_argument("--json", type=Path, help="write the figures into this file, too")
    given = parser.parse_args()
    found = measure(given.seconds)
    print(f"ready after the step    {', '.join(f'{at:.1f} s' for at in found.ready)}")
    print(f"in time, whole step     {found.whole:.3f}")
    print(f"since the first of them {found.since_first:.3f}")
    print(f"since the last of them  {found.since_last:.3f}")
    print(f"one replica again after {found.one_left:.0f} s")
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(found), indent=2) + "\n")


if __name__ == "__main__":
    main()
