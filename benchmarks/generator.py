"""How fast the load generator of `mlserve bench` is: one process of it, on a core of its own.

The servers have another core, and do almost nothing: uvicorn alone over HTTP/1.1, and mlserve with
a model that does nothing over gRPC, which is slower than the generator. What one core can send is
therefore also told from the CPU time a request.

    python benchmarks/generator.py [--seconds 3] [--rounds 3] [--rate 5000] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from null_request import IMAGE_BYTES, MODEL, jpeg, process

from mlserve.bench.load import ClosedLoop, Load, OpenLoop, Window
from mlserve.bench.measure import measure
from mlserve.bench.measurement import Measurement
from mlserve.bench.questions import ImageQuestion, target_for
from mlserve.bench.target import Target
from mlserve.client.endpoint import Connection
from mlserve.deadline import Deadline

CLIENTS = 16
SMALL = 1024
"""Bytes of a small request, which show what a request costs but for its body."""
TIMEOUT = 5.0


@dataclass(frozen=True)
class Row:
    """What one load cost the generator; times are of the repeats together."""

    server: str
    load: str
    answers_a_second: float
    cores: float
    cpu_us_a_request: float
    lag_p99_ms: float
    lost: int


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=5000.0, help="of the open loop")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) == 1:
        parser.error("it takes two CPUs, one for the servers and one for the generator")
    closed: list[Load] = [ClosedLoop(1), ClosedLoop(CLIENTS)]
    window = Window(options.seconds, 0.5, TIMEOUT)
    os.sched_setaffinity(0, {cpus[0]})  # the servers inherit it
    with servers() as (http, grpc):
        os.sched_setaffinity(0, {cpus[1]})
        measured = partial(measure, window=window, repeat=options.rounds, processes=1)
        found = [*measured([*http, *grpc], closed), *measured(http, [OpenLoop(options.rate)])]
    rows = [row_of(each) for each in found]
    print(table(rows))
    for each in found:
        for text in each.warnings:
            print(f"{each.target.name}, {each.load}: {text}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


@contextmanager
def servers() -> Iterator[tuple[list[Target], list[Target]]]:
    """Start the servers, and yield what is asked of them over HTTP/1.1 and over gRPC."""
    with tempfile.TemporaryDirectory(prefix="mlserve-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        flags = ("--port", "0", "--no-access-log", "--log-level", "info")
        running = r"running on http://127\.0\.0\.1:(\d+)"
        argv = ("-m", "uvicorn", "null_apps:bare_app", *flags)
        _, (port,) = stack.enter_context(process(folder / "uvicorn", running, *argv))
        url = f"http://127.0.0.1:{port}/predict"
        bodies = {"1 kB": bytes(SMALL), f"{IMAGE_BYTES // 1024} kB": jpeg()}
        http = [
            Target.of_http(f"HTTP/1.1, {size}", url, body, timeout=TIMEOUT)
            for size, body in bodies.items()
        ]
        (folder / MODEL / "1").mkdir(parents=True)
        (folder / MODEL / "1" / "model.null").touch()
        ready = r"listening grpc=\S+:(\d+) rest=\S+:(\d+).*is available"
        argv = ("null_server.py", str(folder / MODEL), "--model", MODEL)
        _, (grpc, _) = stack.enter_context(process(folder / "own", ready, *argv))
        yield http, [_grpc_target(size, body, grpc) for size, body in bodies.items()]


def _grpc_target(size: str, body: bytes, port: int) -> Target:
    connection = Connection.to(f"127.0.0.1:{port}", model=MODEL)
    question, due = ImageQuestion([body]), Deadline.after(TIMEOUT)
    return asyncio.run(target_for(f"gRPC, {size}", connection, question, TIMEOUT, due))


def row_of(measured: Measurement) -> Row:
    """Return the generator's side of what was measured."""
    tally = measured.tally
    return Row(
        measured.target.name,
        str(measured.load),
        statistics.median(each.in_time / each.seconds for each in measured.tallies),
        tally.generator_cpu / tally.seconds,
        tally.generator_cpu / max(1, tally.requests) * 1e6,
        (tally.lag.quantile(0.99) or 0.0) * 1000,
        tally.requests - tally.in_time,
    )


def table(rows: list[Row]) -> str:
    """Return the rows as text; `a core/s` is what one busy core would send."""
    head = ("load", "server", "answers/s", "cores", "us/request", "a core/s", "lag p99 ms", "lost")
    lines = ["{:<11}{:<17}{:>10}{:>7}{:>12}{:>10}{:>12}{:>6}".format(*head)]
    lines += [
        f"{row.load:<11}{row.server:<17}{row.answers_a_second:>10.0f}{row.cores:>7.2f}"
        f"{row.cpu_us_a_request:>12.0f}{1e6 / row.cpu_us_a_request:>10.0f}"
        f"{row.lag_p99_ms:>12.2f}{row.lost:>6}"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
