"""What becomes of requests at three times the capacity: mlserve and the usual server, side by side.

Questions arrive at random moments (Poisson), each with a total timeout, on an mlserve server with
its default settings, which is told nothing of its capacity or the deadlines. Capacity is what the
same server answers to a few clients that ask one question after the other, measured just before and
just after. All of it is over REST, and one case over gRPC, too. Then the usual server (FastAPI,
uvicorn, ONNX Runtime) gets the same: as it is, and with uvicorn's --limit-concurrency set to what
suits this one load. Its figures are for comparison, not judged.

    python benchmarks/overload.py [--seconds 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from overload_models import CLASSES, LAYERS, SIZE, write_model
from PIL import Image
from served_model import ServedModel, predict_request, served_model

from mlserve.bench.load import ClosedLoop, OpenLoop, Window, run_load
from mlserve.bench.measurement import refusals
from mlserve.bench.tally import EXPIRED, LATE, Tally
from mlserve.bench.target import Target
from mlserve.client.adapter import Call
from mlserve.client.endpoint import Connection
from mlserve.wire.services import PREDICTION, method_path

OVERLOAD = 3
CLIENTS = 4
TIMEOUT = 1.0
PATIENT = 30.0
"""Timeout of the requests that measure the capacity, in seconds."""
_IDLE, _LOOK = 0.1, 0.05
"""A server that uses less than this fraction of one core is idle; how often it is looked at."""


@dataclass(frozen=True)
class Case:
    """One load: its model and timeouts, in turn; `target` is a fraction of the capacity."""

    name: str
    model: str
    timeouts: tuple[float, ...]
    target: float
    transport: str = "rest"


@dataclass(frozen=True)
class Row:
    """The measurements of one case. `target` None means that it is not judged."""

    server: str
    case: str
    capacity: float
    tally: Tally
    idle_after: float
    target: float | None

    @property
    def part(self) -> float:
        """Return goodput as a fraction of the capacity."""
        return self.tally.goodput / self.capacity

    def to_json(self) -> dict[str, Any]:
        """Return the figures as data; times in seconds."""
        return {
            "server": self.server,
            "case": self.case,
            "capacity": self.capacity,
            "goodput": self.tally.goodput,
            "part_of_capacity": self.part,
            "target": self.target,
            "ended": _ended(self.tally),
            "refusal_p99": refusals(self.tally).quantile(0.99),
            "idle_after": self.idle_after,
            "generator_lag": self.tally.lag.largest,
        }


def _ended(tally: Tally) -> dict[str, int]:
    """Return how many requests ended in each way."""
    return {
        "in time": tally.in_time,
        "late": tally.count(LATE),
        "refused": sum(tally.refused.values()),
        "no answer in time": tally.count(EXPIRED),
        "failed": sum(tally.failed.values()),
    }


_chance = random.Random(1)
_FIXED = (TIMEOUT,)
_MIXED = tuple(_chance.uniform(0.1, 5.0) for _ in range(200))
CASES = (
    Case("1 s", "base", _FIXED, 0.95),
    Case("1 s, gRPC", "base", _FIXED, 0.95, "grpc"),
    Case("0.1 to 5 s", "base", _MIXED, 0.93),
    Case("1 s, fast model", "fast", _FIXED, 0.93),
    Case("1 s, slow model", "slow", _FIXED, 0.93),
)


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--json", type=Path, help="write the figures into this file, too")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="mlserve-overload-") as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in LAYERS}
        labels = Path(folder) / "labels.txt"
        labels.write_text("".join(f"class {number}\n" for number in range(CLASSES)))
        for name, file in files.items():
            write_model(file, LAYERS[name])
            for row in _mlserve_rows(name, file, labels, options.seconds):
                print(_line(row), flush=True)
                rows.append(row)
        for row in _usual_rows(files["base"], options.seconds):
            print(_line(row), flush=True)
            rows.append(row)
    print("\n" + _targets(rows))
    if options.json:
        options.json.write_text(json.dumps([row.to_json() for row in rows], indent=1) + "\n")


def _mlserve_rows(model: str, file: Path, labels: Path, seconds: float) -> Iterator[Row]:
    flags = ("--labels", str(labels), "--input-size", str(SIZE), "--scale", "0..1")
    with served_model(
        backend="onnxruntime", model=model, weights=str(file), export_flags=flags
    ) as server:
        for case in CASES:
            if case.model == model:
                yield _measure_mlserve(server, case, seconds)


def _measure_mlserve(server: ServedModel, case: Case, seconds: float) -> Row:
    def target(timeout: float) -> Target:
        if case.transport == "grpc":
            request = predict_request(server.model, "serving_default", _jpeg())
            call = Call(method_path(PREDICTION, "Predict"), request.SerializeToString())
            to = Connection.to(server.grpc_endpoint)
        else:
            image = base64.b64encode(_jpeg()).decode()
            body = json.dumps({"inputs": [{"b64": image}]}).encode()
            call = Call(f"/v1/models/{server.model}:predict", body)
            to = Connection.to(server.rest_endpoint, "rest")
        return Target.of_calls("mlserve", to, [call], timeout)

    return _measure(target, case, seconds, server.pid, target=case.target)


def _measure(
    target_of: Callable[[float], Target],
    case: Case,
    seconds: float,
    pid: int,
    *,
    target: float | None,
) -> Row:
    """Measure the capacity, the overload, and the capacity again."""
    patient = target_of(PATIENT)
    before = _capacity(patient, seconds / 2)
    if not before:
        raise SystemExit(f"no answer in {seconds / 2:g} s: give more --seconds")
    requests = tuple(target_of(timeout).requests[0] for timeout in case.timeouts)
    window = Window(seconds, 0.0, max(case.timeouts))
    overloaded = replace(patient, requests=requests)
    load = run_load(overloaded, OpenLoop(OVERLOAD * before), window)
    idle = _seconds_until_idle(psutil.Process(pid))
    after = _capacity(patient, seconds / 2)
    return Row(patient.name, case.name, (before + after) / 2, load, idle, target)


def _capacity(target: Target, seconds: float) -> float:
    return run_load(target, ClosedLoop(CLIENTS), Window(seconds, 0.0, PATIENT)).goodput


def _seconds_until_idle(server: psutil.Process, at_most: float = 20.0) -> float:
    """Return the seconds until the process stops using the CPU."""
    started = time.monotonic()
    busy_until, used, at = started, _cpu_seconds(server), started
    while at - busy_until < 4 * _LOOK and at - started < at_most:
        time.sleep(_LOOK)
        now, now_used = time.monotonic(), _cpu_seconds(server)
        if now_used - used > _IDLE * (now - at) + 0.01:  # the clock ticks every 0.01 s
            busy_until = now
        used, at = now_used, now
    return busy_until - started


def _cpu_seconds(server: psutil.Process) -> float:
    times = server.cpu_times()
    return times.user + times.system


def _usual_rows(file: Path, seconds: float) -> Iterator[Row]:
    case = CASES[0]
    with _usual_server(file) as (port, pid):
        plain = _measure_usual("usual", port, pid, case, seconds)
    yield plain
    # As many as it can answer within the timeout, less a fifth for safety.
    limit = max(2, int(0.8 * TIMEOUT * plain.capacity))
    with _usual_server(file, "--limit-concurrency", str(limit)) as (port, pid):
        name = f"usual, limit {limit}"
        yield _measure_usual(name, port, pid, case, seconds)


def _measure_usual(name: str, port: int, pid: int, case: Case, seconds: float) -> Row:
    def target(timeout: float) -> Target:
        url, headers = f"http://127.0.0.1:{port}/predict", {"content-type": "image/jpeg"}
        return Target.of_http(name, url, _jpeg(), timeout=timeout, headers=headers)

    return _measure(target, case, seconds, pid, target=None)


@contextmanager
def _usual_server(file: Path, *flags: str) -> Iterator[tuple[int, int]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    argv = [sys.executable, "-m", "uvicorn", "usual_server:app", "--port", str(port), *flags]
    env = {**os.environ, "MODEL_FILE": str(file)}
    quiet = ["--log-level", "critical", "--no-access-log"]
    folder = Path(__file__).parent
    with subprocess.Popen([*argv, *quiet], cwd=folder, env=env) as process:
        try:
            _wait_until_open(port)
            yield port, process.pid
        finally:
            process.kill()


def _wait_until_open(port: int, timeout: float = 30.0) -> None:
    until = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def _jpeg() -> bytes:
    """Return a file of a few hundred bytes: the cost is the model's, not the decoder's."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 80, 40)).save(buffer, "JPEG")
    return buffer.getvalue()


_HEAD = ("server", "timeout", "capacity", "in time", "part", "late", "refused", "none", "failed")
_WIDTHS = "{:<16}{:<18}{:>9}{:>9}{:>7}{:>6}{:>9}{:>6}{:>8}{:>14}{:>12}"


def _line(row: Row) -> str:
    tally, ended = row.tally, _ended(row.tally)
    counts = [ended[what] for what in ("late", "refused", "no answer in time", "failed")]
    return _WIDTHS.format(
        row.server,
        row.case,
        f"{row.capacity:.1f}/s",
        f"{tally.goodput:.1f}/s",
        f"{row.part:.3f}",
        *counts,
        f"{_refusal_p99(tally) * 1000:.1f} ms p99",
        f"idle {row.idle_after:.2f} s",
    )


def _refusal_p99(tally: Tally) -> float:
    return refusals(tally).quantile(0.99) or 0.0


def _targets(rows: list[Row]) -> str:
    lines = [f"{'':<44}{'measured':>10}{'target':>10}"]
    for row in rows:
        if row.target is not None:
            name = f"answers in time / capacity, {row.case}"
            lines.append(f"{name:<44}{row.part:>10.3f}{f'>= {row.target}':>10}")
    own = [row for row in rows if row.target is not None]
    late = sum(row.tally.count(LATE) for row in own)
    refusal = max(_refusal_p99(row.tally) for row in own) * 1000
    idle = max(row.idle_after for row in own)
    lines += [
        f"{'answers after their deadline':<44}{late:>10}{'0':>10}",
        f"{'refusal, p99 of the worst load, ms':<44}{refusal:>10.1f}{'< 20':>10}",
        f"{'idle after the load, worst, s':<44}{idle:>10.2f}{'<= 0.3':>10}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
