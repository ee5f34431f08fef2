"""What other servers do with work that nobody waits for any more, and with SIGTERM.

Each serves the same model (half a second, one at a time), as it comes and, where it has settings
for that, with limits made for this one load. Twenty callers ask at once, over REST or over gRPC
with a deadline, and leave after 1.2 s, so two can be answered. Then one asks, and the server is
told to stop while the model runs. `docs/comparison.md` has the results.

    python benchmarks/peers/abandoned.py [--only NAME]

The servers' environments are those of `make bench-peers`; what is not built is left out.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import exchanges
import grpc
import httpx
from environments import ROOT
from exchanges import Exchange
from running import Running, running
from servers import (
    AS_INSTALLED,
    MODEL,
    ONE_IN_A_BATCH,
    PEERS,
    Command,
    Launch,
    Peer,
    Settings,
    free_ports,
    mlserver,
    triton,
)

WORK, PATIENCE, CALLERS = 0.5, 1.2, 20
"""Seconds that a run takes, and that a caller waits; the number of callers at once."""
ANSWERED, LEFT, CUT_OFF = "200", "left", "cut off"
IMAGE = (ROOT / "examples" / "horse.jpg").read_bytes()
ONE, ALONE = Settings(1, 1), Settings(0, 1)

Call = Callable[[float], str]
"""Calls once within that many seconds. Returns a status, or how else the call ended."""


@dataclass(frozen=True)
class Case:
    """A server with limits; `headers` go with each request, and the server works alone."""

    name: str
    peer: Peer
    settings: Settings
    options: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def call(self, server: Running) -> Call:
        """Return what calls the server, on a connection of its own."""
        exchange = server.exchange(IMAGE)
        connect = _over_grpc if exchange.is_grpc else _over_http
        return connect(server.port, replace(exchange, headers=exchange.headers | self.headers))


def _over_http(port: int, exchange: Exchange) -> Call:
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=False, trust_env=False)

    def call(timeout: float) -> str:
        try:
            return str(
                client.post(
                    exchange.path, content=exchange.body, headers=exchange.headers, timeout=timeout
                ).status_code
            )
        except httpx.TimeoutException:
            return LEFT
        except httpx.HTTPError:
            return CUT_OFF

    return call


def _over_grpc(port: int, exchange: Exchange) -> Call:
    method = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary(exchange.path)

    def call(timeout: float) -> str:
        try:
            method(exchange.body, timeout=timeout)
        except grpc.RpcError as error:
            code = error.code().name
            return LEFT if code == "DEADLINE_EXCEEDED" else str(code)
        return ANSWERED

    return call


def _echo(launch: Launch) -> Command:
    """Serve the same sleep with mlserve: its test backend, one thread."""
    version = launch.folder / "model" / "1"
    version.mkdir(parents=True)
    config = {"delay": WORK, "journal": launch.options["journal"]}
    (version / "echo.json").write_text(json.dumps(config))
    argv = [sys.executable, "-m", "mlserve.server", "--backend", "echo", "--model", MODEL]
    argv += ["--base-path", version.parent, "--threads", "1", "--rest-port", launch.port]
    return [*argv, "--grpc-port", free_ports(1)[0]], {}


def _cases() -> Iterator[Case]:
    ours = Peer("mlserve", "", _echo, exchanges.tfs_json(MODEL), lambda _: (AS_INSTALLED,), "")
    milliseconds = str(round(PATIENCE * 1000))
    told = {"X-Request-Timeout-Ms": milliseconds}
    yield Case("mlserve, told the deadline", ours, AS_INSTALLED, headers=told)
    yield Case("mlserve, not told", ours, AS_INSTALLED)
    known = {peer.name: peer for peer in PEERS if peer.is_built}
    if peer := known.get("Triton"):
        over_grpc = exchanges.oip_grpc(MODEL, ONE_IN_A_BATCH)
        grpc_peer = replace(peer, command=triton("grpc"), ask=over_grpc)
        policy = f"timeout_action: REJECT default_timeout_microseconds: {milliseconds}000"
        limits = f"dynamic_batching {{ default_queue_policy {{ {policy} max_queue_size: 1 }} }}"
        batching = {"limits": "dynamic_batching { }"}
        yield Case("Triton", peer, ONE)
        yield Case("Triton, gRPC", grpc_peer, ONE)
        yield Case("Triton, gRPC, dynamic batching", grpc_peer, ONE, batching)
        yield Case("Triton, with limits", peer, ONE, {"limits": limits})
    if peer := known.get("MLServer"):
        rest = replace(peer, command=mlserver("HTTP"), ask=exchanges.oip_json(MODEL))
        yield Case("MLServer", rest, ALONE)
        yield Case("MLServer, gRPC", peer, ALONE)
    if peer := known.get("BentoML"):
        limited = {"traffic": {"timeout": PATIENCE, "max_concurrency": 2}}
        yield Case("BentoML", peer, ONE, {"traffic": {"timeout": 60}})
        yield Case("BentoML, with limits", peer, ONE, limited)
    if peer := known.get("LitServe"):
        yield Case("LitServe", peer, ONE)
        yield Case("LitServe, with limits", peer, ONE, {"timeout": PATIENCE})


@dataclass(frozen=True)
class Watched:
    """A server that runs, and the file where its model logs each run."""

    case: Case
    server: Running
    journal: Path

    def call(self) -> Call:
        """Return what calls the server, on a connection of its own."""
        return self.case.call(self.server)

    def runs(self) -> int:
        """Return how many runs of the model have begun."""
        return len(self.journal.read_text().splitlines())

    def wait_until_idle(self) -> None:
        """Return when no run has begun for a while."""
        runs, since = self.runs(), time.monotonic()
        while time.monotonic() < since + 4 * WORK:
            time.sleep(0.05)
            if self.runs() != runs:
                runs, since = self.runs(), time.monotonic()


@contextmanager
def _running(case: Case) -> Iterator[Watched]:
    with tempfile.NamedTemporaryFile() as journal:
        options = dict(case.options)
        if case.peer.is_ours:
            options["journal"] = journal.name
        env = {"JOURNAL": journal.name}
        with running(case.peer, case.settings, IMAGE, 1, options=options, env=env) as server:
            watched = Watched(case, server, Path(journal.name))
            watched.call()(5)  # the second answer: it has warmed up
            watched.wait_until_idle()
            yield watched


def _together(calls: list[Call]) -> list[tuple[str, float]]:
    """Make all calls at once; return the outcome and the seconds of each."""
    ends: list[tuple[str, float]] = []

    def ask(call: Call) -> None:
        began = time.monotonic()
        ended = call(PATIENCE)
        ends.append((ended, time.monotonic() - began))

    threads = [threading.Thread(target=ask, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


def leave(case: Case) -> str:
    """Measure twenty callers who give up: a row of the first table."""
    with _running(case) as watched:
        before = watched.runs()
        ends = _together([watched.call() for _ in range(CALLERS)])
        until_left = watched.runs()
        watched.wait_until_idle()
        refused = [seconds for ended, seconds in ends if ended not in {ANSWERED, LEFT}]
        slowest = f"{max(refused) * 1000:.0f} ms" if refused else "-"
        counts = Counter(ended for ended, _ in ends)
        after = watched.runs() - until_left
        cells = counts[ANSWERED], len(refused), counts[LEFT], slowest, until_left - before, after
        return " | ".join(map(str, cells)) + f" | {after * WORK:.1f} s"


def stop(case: Case) -> str:
    """Send SIGTERM while the model runs for one caller: a row of the second table."""
    with _running(case) as watched:
        before, ends, call = watched.runs(), list[str](), watched.call()
        caller = threading.Thread(target=lambda: ends.append(call(10)))
        caller.start()
        while watched.runs() == before:
            time.sleep(0.01)
        process = watched.server.process
        process.send_signal(signal.SIGTERM)
        caller.join()
        try:
            code = str(process.wait(15))
        except subprocess.TimeoutExpired:
            code = "still there after 15 s"
        return f"{ends[0]} | {code}"


def main() -> None:
    """Print both tables in one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="NAME")
    only = parser.parse_args().only.lower()
    wanted = [case for case in _cases() if case.name.lower().startswith(only)]
    print("| server | answered | refused | left | slowest refusal | runs | runs after | busy for |")
    for case in wanted:
        print(f"| {case.name} | {leave(case)} |", flush=True)
    print("\n| server | the request in flight at SIGTERM | exit code |")
    for case in wanted:
        print(f"| {case.name} | {stop(case)} |", flush=True)


if __name__ == "__main__":
    main()
