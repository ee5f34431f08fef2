"""What becomes of calls while parts of a cluster are replaced, killed, silenced or added.

A cluster of Ray nodes with loopback addresses runs replicas of the tests' echo backend, whose model
sleeps, or of a real classifier (`--real`). Callers over gRPC and REST ask without pause: mlserve's
client as it comes, and one that never tries again (`once`). Each case does one thing again and
again, and counts the calls that got no answer, and the longest time in which nobody got one.

    python benchmarks/cluster/run.py [--case NAME ...] [--times 10] [--real] [--json FILE]
                                    [--list]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from callers import Callers, asking
from nodes import Cluster, cluster, kill, named
from subjects import Classifier, Sleeping, Subject

_CALLERS_EACH = 2
_SETTLE = 3.0
"""Seconds of load before the first event and after each."""
_BACK_WITHIN = 120.0
_LOOK = 0.1


@dataclass(frozen=True)
class Server:
    """A server on the cluster, in a home of its own."""

    home: Path
    grpc: str
    rest: str
    pid: int

    def mlserve(self, *arguments: str, is_checked: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of mlserve."""
        return _mlserve(self.home, *arguments, is_checked=is_checked)

    def state(self) -> dict[str, Any]:
        """What the server says of its replicas; empty if it does not answer."""
        try:
            with urllib.request.urlopen(f"{self.rest}/mlserve/replicas", timeout=5) as answer:
                found: dict[str, Any] = json.loads(answer.read())
        except (OSError, ValueError):
            return {}
        return found

    def ready(self) -> list[dict[str, Any]]:
        """The replicas that are ready."""
        return [r for r in self.state().get("replicas", []) if r["state"] == "ready"]

    def wait_for(self, count: int) -> float:
        """Wait until exactly so many replicas are ready; return the seconds that took."""
        began = time.monotonic()
        while len(self.ready()) != count:
            if time.monotonic() - began > _BACK_WITHIN:
                raise SystemExit(f"{count} replicas are not ready: {self.state()}")
            time.sleep(_LOOK)
        return time.monotonic() - began

    def some_server(self) -> tuple[str, psutil.Process]:
        """The id of a replica, and the process of mlserve's server in it."""
        began = time.monotonic()
        while time.monotonic() - began < _BACK_WITHIN:
            ids = {int(r["address"].rpartition(":")[2]): r["id"] for r in self.ready()}
            for process in psutil.process_iter():
                with suppress(psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                    for each in process.net_connections("tcp"):
                        if each.status == "LISTEN" and each.laddr.port in ids:
                            return ids[each.laddr.port], process
        raise SystemExit(f"no server of a replica is found: {self.state()}")

    def wait_without(self, replica: str) -> None:
        """Wait until that replica does not count as ready any more."""
        began = time.monotonic()
        while any(each["id"] == replica for each in self.ready()):
            if time.monotonic() - began > _BACK_WITHIN:
                raise SystemExit(f"{replica} is still ready: {self.state()}")
            time.sleep(_LOOK)

    def child(self, name: str) -> psutil.Process:
        """A process below the server's own with that name, such as `envoy`."""
        for process in psutil.Process(self.pid).children(recursive=True):
            if name in process.name():
                return process
        raise SystemExit(f"no process below {self.pid} is named {name}")


def _mlserve(
    home: Path, *arguments: str, is_checked: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mlserve", *arguments],
        env={**os.environ, "MLSERVE_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if is_checked and done.returncode:
        raise SystemExit(f"mlserve {arguments[0]} ended with {done.returncode}:\n{done.stderr}")
    return done


@contextmanager
def serving(
    home: Path, address: str, subject: Subject, replicas: str, *flags: str
) -> Iterator[Server]:
    """Serve version 1 of the subject on the cluster."""
    subject.publish(home, 1)
    where = ("--grpc-port", "0", "--rest-port", "0", "--launcher", "ray", "--address", address)
    what = ("--backend", subject.backend, "--model", subject.model)
    model = (*what, "--replicas", replicas, "--wait", "120")
    _mlserve(home, "up", *model, *where, *flags)
    try:
        (record,) = json.loads(_mlserve(home, "ps", "--output", "json").stdout)
        grpc, rest = (f"127.0.0.1:{record[port]}" for port in ("grpc_port", "rest_port"))
        yield Server(home, grpc, f"http://{rest}", record["pid"])
    finally:
        _mlserve(home, "down", "--all", is_checked=False)


@dataclass
class Run:
    """One case as it runs: what it is done to, who asks, and what has been seen."""

    subject: Subject
    server: Server
    cluster: Cluster
    callers: Callers
    times: int
    gaps: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def repeat(self, what: Callable[[int], None]) -> None:
        """Do it so many times, and wait each time until all replicas are ready again."""
        for number in range(self.times):
            began = time.monotonic()
            what(number)
            time.sleep(_SETTLE)  # the load goes on, and the loss is noticed
            self.back.append(_SETTLE + self.server.wait_for(self.subject.replicas))
            self.gaps.append(self.callers.longest_gap(began, time.monotonic()))


def _steady(run: Run) -> None:
    run.repeat(lambda _: None)


def _rolling(run: Run) -> None:
    run.subject.publish(run.server.home, 2)

    def use(number: int) -> None:
        run.server.mlserve("models", "use", f"{run.subject.name}@{2 - number % 2}")

    run.repeat(use)


def _bad_version(run: Run) -> None:
    run.subject.publish(run.server.home, 2, is_bad=True)

    def use(_: int) -> None:
        done = run.server.mlserve("models", "use", f"{run.subject.name}@2", is_checked=False)
        if not done.returncode:
            raise SystemExit("the bad version was accepted")
        run.notes.append(done.stderr.strip().splitlines()[0])
        run.server.mlserve("models", "use", f"{run.subject.name}@1")

    run.repeat(use)


def _kill_server(run: Run) -> None:
    def once(_: int) -> None:
        _, server = run.server.some_server()
        kill(server)

    run.repeat(once)


def _kill_replica(run: Run) -> None:
    def once(_: int) -> None:
        replica, server = run.server.some_server()
        worker = server.parent()
        assert worker is not None
        kill(worker)
        run.server.wait_without(replica)  # or the next one killed might be the last that lives

    run.repeat(once)


def _kill_ingress(run: Run) -> None:
    run.repeat(lambda _: kill(run.server.child("envoy")))


def _there(run: Run, name: str) -> psutil.Process:
    """The process of that name, which Ray may still be starting again.

    It is on a node of the cluster, or on the one of the server's own, which runs no replicas.
    """
    began = time.monotonic()
    own = psutil.Process(run.server.pid)
    while not (
        found := run.cluster.processes_named(name) or named(name, own.children(recursive=True))
    ):
        if time.monotonic() - began > _BACK_WITHIN:
            raise SystemExit(f"{name} has not been started again in {_BACK_WITHIN:g} s")
        time.sleep(_LOOK)
    return found[0]


def _kill_controller(run: Run) -> None:
    run.repeat(lambda _: kill(_there(run, "ray::ServeController")))


def _kill_roster(run: Run) -> None:
    run.repeat(lambda _: kill(_there(run, "ray::Roster")))


def _kill_node(run: Run) -> None:
    def once(_: int) -> None:
        run.cluster.nodes.pop().kill()
        run.cluster.add(_CPUS)

    run.repeat(once)


def _silent_node(run: Run) -> None:
    def once(_: int) -> None:
        node = run.cluster.nodes.pop()
        try:
            node.silence()
            time.sleep(_SETTLE)
            run.cluster.add(_CPUS)
            run.server.wait_for(run.subject.replicas)
        finally:
            node.kill()  # what is stopped would stay

    run.repeat(once)


_CPUS = 4
CASES: dict[str, Callable[[Run], None]] = {
    "steady": _steady,
    "rolling": _rolling,
    "bad-version": _bad_version,
    "kill-server": _kill_server,
    "kill-replica": _kill_replica,
    "kill-ingress": _kill_ingress,
    "kill-controller": _kill_controller,
    "kill-roster": _kill_roster,
    "kill-node": _kill_node,
    "silent-node": _silent_node,
}
_TIMES = {"steady": 3, "rolling": 20, "bad-version": 3}


@dataclass(frozen=True)
class Figures:
    """What was counted in one case."""

    case: str
    times: int
    calls: int
    lost: int
    once: int
    lost_once: int
    longest_gap: float
    """Seconds in which nobody got an answer, the most of all times."""
    back: float
    """Seconds until all replicas are ready again, the most of all times."""
    redispatched: int
    reasons: dict[str, int]
    notes: list[str]


def measure(name: str, subject: Subject, times: int | None) -> Figures:
    """Run one case with a server of its own on a cluster of two nodes."""
    count = times or _TIMES.get(name, 10)
    with (
        tempfile.TemporaryDirectory(prefix="mlserve-cluster-") as home,
        cluster(2, _CPUS) as ours,
        serving(Path(home), ours.address, subject, str(subject.replicas)) as server,
    ):
        server.wait_for(subject.replicas)
        with asking(server.grpc, server.rest, subject, each=_CALLERS_EACH) as callers:
            time.sleep(_SETTLE)
            run = Run(subject, server, ours, callers, count)
            CASES[name](run)
        once = callers.count("once")
        reasons = callers.failures()
        return Figures(
            case=name,
            times=count,
            calls=callers.count() - once,
            lost=sum(reasons.values()) - sum(callers.failures("once").values()),
            once=once,
            lost_once=sum(callers.failures("once").values()),
            longest_gap=max(run.gaps),
            back=max(run.back),
            redispatched=server.state().get("ingress", {}).get("redispatched", 0),
            reasons=dict(Counter(reasons).most_common(5)),
            notes=sorted(set(run.notes)),
        )


_HEAD = f"{'case':<16}{'times':>6}{'calls':>8}{'lost':>6}{'once':>8}{'lost':>6}{'gap s':>7}"


def main() -> None:
    """Run the cases, and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", choices=CASES, help="repeat it; see --list")
    parser.add_argument("--times", type=int, help="how often each thing is done")
    parser.add_argument("--real", action="store_true", help="serve a classifier of images")
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("--json", type=Path, help="write the figures into this file, too")
    given = parser.parse_args()
    if given.list:
        print("\n".join(CASES))
        return
    with tempfile.TemporaryDirectory(prefix="mlserve-export-") as folder:
        subject = Classifier(Path(folder)) if given.real else Sleeping()
        _run(subject, given)


def _run(subject: Subject, given: argparse.Namespace) -> None:
    print(f"{_HEAD}{'back s':>8}{'again':>7}")
    every = []
    for name in given.case or CASES:
        found = measure(name, subject, given.times)
        every.append(asdict(found))
        print(
            f"{found.case:<16}{found.times:>6}{found.calls:>8}{found.lost:>6}{found.once:>8}"
            f"{found.lost_once:>6}{found.longest_gap:>7.2f}{found.back:>8.1f}"
            f"{found.redispatched:>7}",
            flush=True,
        )
        for reason, count in found.reasons.items():
            print(f"    {count} x {reason}")
        for note in found.notes:
            print(f"    {note}")
        if given.json is not None:
            given.json.write_text(json.dumps(every, indent=2) + "\n")


if __name__ == "__main__":
    main()
