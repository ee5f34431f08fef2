"""How many answers replicas give, and how many in time under three times the load they can bear.

A model that sleeps, so that the machine's cores do not decide. Beside it, in the same run, Ray
Serve as its documentation shows it: a FastAPI ingress behind Serve's own proxy, with as many
replicas.

    python benchmarks/cluster/throughput.py [--seconds 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from nodes import Cluster, cluster
from run import serving
from subjects import Sleeping
from usual import served_by_ray_serve

from mlserve.bench.load import ClosedLoop, Load, OpenLoop, Window, run_load
from mlserve.bench.tally import Tally
from mlserve.bench.target import Target

SLEEP = 0.1
"""Seconds that a call sleeps."""
REPLICAS = 4
DEADLINE = 1.0
TIMES = 3.0
_PATIENT = 30.0
_WARM_UP = 2.0
_MS = 1000


@dataclass(frozen=True)
class Measured:
    """What one kind of server does: one replica, several, and those under overload."""

    name: str
    one: float
    """Answers a second of one replica."""
    several: float
    """Answers a second of all replicas."""
    p50: float
    """Milliseconds beyond the model's sleep, with one caller."""
    in_time: float
    """Answers within the deadline at `TIMES` the load, as a part of `several`."""

    def __str__(self) -> str:
        return (
            f"{self.name:<22}{self.one:>10.1f}{self.several:>10.1f}{self.several / self.one:>8.2f}"
            f"{self.p50:>10.2f}{self.in_time:>10.2f}"
        )


def _load(url: str, body: bytes, load: Load, seconds: float, timeout: float) -> Tally:
    target = Target.of_http("it", url, body, timeout=timeout)
    return run_load(target, load, Window(seconds, _WARM_UP, timeout))


def measure(name: str, one: str, several: str, body: bytes, seconds: float) -> Measured:
    """Measure a kind of server by the URLs of one replica and of several."""
    alone = _load(one, body, ClosedLoop(1), seconds, _PATIENT)
    if not alone.in_time:
        raise SystemExit(f"{name} gives no answers: {dict(alone.failed)}")
    single = _load(one, body, ClosedLoop(4), seconds, _PATIENT).goodput
    all_of_them = _load(several, body, ClosedLoop(4 * REPLICAS), seconds, _PATIENT).goodput
    over = _load(several, body, OpenLoop(TIMES * all_of_them), 2 * seconds, DEADLINE)
    p50 = _MS * ((alone.answers.quantile(0.5) or 0.0) - SLEEP)
    return Measured(name, single, all_of_them, p50, over.goodput / all_of_them)


@contextmanager
def _mlserve(ours: Cluster, replicas: int) -> Iterator[str]:
    subject = Sleeping(f"m{replicas}")  # both are in one cluster
    with (
        tempfile.TemporaryDirectory(prefix="mlserve-cluster-") as home,
        serving(Path(home), ours.address, subject, str(replicas), "--threads", "1") as server,
    ):
        server.wait_for(replicas)
        yield f"{server.rest}/v1/models/{subject.model}:predict"


def main() -> None:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--json", type=Path, help="write the figures into this file, too")
    given = parser.parse_args()
    body = json.dumps({"signature_name": "slow", "inputs": {"seconds": [SLEEP]}}).encode()
    print(f"{'':<22}{'one /s':>10}{'four /s':>10}{'ratio':>8}{'p50 + ms':>10}{'in time':>10}")
    every = []
    with cluster(2, 4) as ours, _mlserve(ours, 1) as one, _mlserve(ours, REPLICAS) as several:
        every.append(measure("mlserve on Ray", one, several, body, given.seconds))
        print(every[-1], flush=True)
    with (
        cluster(2, 4) as ours,
        served_by_ray_serve(ours.address, SLEEP, REPLICAS) as (one, several),
    ):
        every.append(measure("Ray Serve, FastAPI", one, several, b"{}", given.seconds))
        print(every[-1], flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(found) for found in every], indent=2) + "\n")


if __name__ == "__main__":
    main()
