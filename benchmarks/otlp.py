"""What `--otlp` costs a server at full load, beside the same server without it.

    PYTHONPATH=. python benchmarks/otlp.py [--seconds 4] [--rounds 5] [--clients 8] [--burn 0 0.01]

Servers of the tests' echo backend run side by side, with one thread each: without `--otlp`, with it
and each request recorded, and with it and a hundredth recorded. They are loaded in turns by clients
that ask again at once, so that the machine's moods hit each of them. A receiver of its own takes
what they send. `--burn` is the CPU time that the model takes for a call, in seconds: 0 shows what a
request costs beside nothing else.

Each ratio is to the server without `--otlp` in the same round; the table has their medians. Read
the CPU of the server's process: on a machine of few cores, the receiver and the clients take some
of the rate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from mlserve.bench.load import ClosedLoop, Window
from mlserve.bench.processes import LoadProcesses
from mlserve.bench.target import Target
from mlserve.testing.processes import ServerProcess, stopping
from tests.harness.collector import receiving

MODEL = "m"
SAMPLED = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
WAYS: dict[str, dict[str, str] | None] = {"without": None, "all": {}, "1 in 100": SAMPLED}
_RECEIVES = "--receive"


@dataclass(frozen=True)
class Round:
    """One load on one server: CPU milliseconds a request, requests a second, and the median."""

    cpu: float
    rate: float
    median: float


def main() -> None:
    """Measure and print a table for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--burn", type=float, nargs="+", default=[0.0, 0.01])
    parser.add_argument(_RECEIVES, action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.receive:
        _receive()
        return
    for burn in given.burn:
        found = measured(burn, given.seconds, given.rounds, given.clients)
        _print(burn, found)


def measured(burn: float, seconds: float, rounds: int, clients: int) -> dict[str, list[Round]]:
    """Return the rounds of each way of serving."""
    found: dict[str, list[Round]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlserve-otlp-")))
        url = stack.enter_context(_receiver())
        servers = {
            way: stack.enter_context(_serving(folder / way.replace(" ", "-"), burn, url, variables))
            for way, variables in WAYS.items()
        }
        loads = stack.enter_context(LoadProcesses(1))
        for number in range(rounds + 1):
            for way, server in servers.items():
                one = _loaded(loads, server, seconds, clients)
                if number:  # the first round warms them up
                    found[way].append(one)
    return found


def _loaded(loads: LoadProcesses, server: ServerProcess, seconds: float, clients: int) -> Round:
    url = f"http://{server.rest}/v1/models/{MODEL}:predict"
    body = json.dumps({"inputs": ["x" * 200]}).encode()
    target = Target.of_http("target", url, body, timeout=5.0)
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    tally = loads.run(
        target, ClosedLoop(clients), Window(seconds=seconds, warm_up=0.0, timeout=5.0)
    )
    after = process.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    median = tally.answers.quantile(0.5) or 0.0
    return Round(1000 * cpu / tally.in_time, tally.in_time / seconds, 1000 * median)


@contextmanager
def _serving(
    folder: Path, burn: float, url: str, variables: dict[str, str] | None
) -> Iterator[ServerProcess]:
    version = folder / MODEL / "1"
    version.mkdir(parents=True)
    (version / "echo.json").write_text(json.dumps({"burn": burn}))
    log = folder / "log"
    flags = ["--backend", "echo", "--model", MODEL, "--base-path", str(folder / MODEL)]
    flags += ["--grpc-port", "0", "--rest-port", "0", "--threads", "1", "--poll-seconds", "0"]
    flags += [] if variables is None else ["--otlp", url]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "mlserve.server", *flags],
            stderr=output,
            env={**os.environ, **(variables or {})},
        ) as process,
        stopping(process),
    ):
        server = ServerProcess(process, MODEL, log)
        server.wait_ready()
        yield server
    if "not sent" in (said := log.read_text()):
        print(said[said.index("otlp: ") :].splitlines()[-1])


@contextmanager
def _receiver() -> Iterator[str]:
    """Run the receiver as a process; yield its URL."""
    argv = [sys.executable, __file__, _RECEIVES]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def _receive() -> None:
    with receiving() as receiver:
        receiver.take = lambda *_: None  # type: ignore[method-assign]  # it keeps nothing
        print(receiver.http, flush=True)
        sys.stdin.read()


def _print(burn: float, found: dict[str, list[Round]]) -> None:
    print(f"a model that takes {1000 * burn:g} ms")
    print("recorded       CPU ms   CPU ratio   requests/s   rate ratio   median ms   ratio")
    base = found["without"]
    for way, rounds in found.items():
        cpu, rate, median = (
            _median([getattr(r, f) for r in rounds]) for f in Round.__annotations__
        )
        ratios = [_ratio(rounds, base, field) for field in Round.__annotations__]
        print(
            f"{way:12} {cpu:8.3f} {ratios[0]:11.3f} {rate:12.0f} {ratios[1]:12.3f} "
            f"{median:11.2f} {ratios[2]:7.3f}"
        )


def _ratio(rounds: Sequence[Round], base: Sequence[Round], field: str) -> float:
    pairs = zip(rounds, base, strict=True)
    return _median([getattr(one, field) / getattr(other, field) for one, other in pairs])


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    main()
