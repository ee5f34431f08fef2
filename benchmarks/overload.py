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
import asyncio
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from overload_load import Ask, Ending, Tally, capacity, over_grpc, over_http, overload
from overload_models import CLASSES, LAYERS, SIZE, write_model
from PIL import Image
from served_model import ServedModel, predict_request, served_model

OVERLOAD = 3
CLIENTS = 4
TIMEOUT = 1.0


@dataclass(frozen=True)
class Case:
    """One load: its model and timeouts; `target` is a fraction of the capacity."""

    name: str
    model: str
    timeout: Callable[[], float]
    target: float
    transport: str = "rest"


@dataclass(frozen=True)
class Row:
    """The measurements of one case. `target` None means that it is not judged."""

    server: str
    case: str
    capacity: float
    tally: Tally
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
            "ended": {ending.value: self.tally.count(ending) for ending in Ending},
            "refusal_p99": self.tally.p99(Ending.REFUSED),
            "idle_after": self.tally.idle_after,
            "generator_lag": self.tally.lag,
        }


def mixed() -> float:
    """Return a timeout between 0.1 and 5 s."""
    return _chance.uniform(0.1, 5.0)


def fixed() -> float:
    """Return the timeout of the plain cases."""
    return TIMEOUT


_chance = random.Random(1)
CASES = (
    Case("1 s", "base", fixed, 0.95),
    Case("1 s, gRPC", "base", fixed, 0.95, "grpc"),
    Case("0.1 to 5 s", "base", mixed, 0.93),
    Case("1 s, fast model", "fast", fixed, 0.93),
    Case("1 s, slow model", "slow", fixed, 0.93),
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
                yield asyncio.run(_measure_mlserve(server, case, seconds))


async def _measure_mlserve(server: ServedModel, case: Case, seconds: float) -> Row:
    if case.transport == "rest":
        image = base64.b64encode(_jpeg()).decode()
        body = json.dumps({"inputs": [{"b64": image}]}).encode()
        path = f"/v1/models/{server.model}:predict"
        ask = over_http(_port_of(server.rest_endpoint), path, body, "application/json")
        return await _measure("mlserve", ask, case, seconds, server.pid, target=case.target)
    request = predict_request(server.model, "serving_default", _jpeg()).SerializeToString()
    async with grpc.aio.insecure_channel(server.grpc_endpoint) as channel:
        ask = over_grpc(channel, request)
        return await _measure("mlserve", ask, case, seconds, server.pid, target=case.target)


def _port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


async def _measure(
    name: str, ask: Ask, case: Case, seconds: float, pid: int, *, target: float | None
) -> Row:
    before = await capacity(ask, CLIENTS, seconds / 2)
    load = await overload(ask, OVERLOAD * before, seconds, case.timeout, psutil.Process(pid))
    after = await capacity(ask, CLIENTS, seconds / 2)
    return Row(name, case.name, (before + after) / 2, load, target)


def _usual_rows(file: Path, seconds: float) -> Iterator[Row]:
    case = CASES[0]
    with _usual_server(file) as (port, pid):
        plain = asyncio.run(_measure_usual("usual", port, pid, case, seconds))
    yield plain
    # As many as it can answer within the timeout, less a fifth for safety.
    limit = max(2, int(0.8 * TIMEOUT * plain.capacity))
    with _usual_server(file, "--limit-concurrency", str(limit)) as (port, pid):
        name = f"usual, limit {limit}"
        yield asyncio.run(_measure_usual(name, port, pid, case, seconds))


async def _measure_usual(name: str, port: int, pid: int, case: Case, seconds: float) -> Row:
    return await _measure(
        name, over_http(port, "/predict", _jpeg(), "image/jpeg"), case, seconds, pid, target=None
    )


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
    tally = row.tally
    counts = [tally.count(e) for e in (Ending.REFUSED, Ending.EXPIRED, Ending.FAILED)]
    return _WIDTHS.format(
        row.server,
        row.case,
        f"{row.capacity:.1f}/s",
        f"{tally.goodput:.1f}/s",
        f"{row.part:.3f}",
        tally.count(Ending.LATE),
        *counts,
        f"{tally.p99(Ending.REFUSED) * 1000:.1f} ms p99",
        f"idle {tally.idle_after:.2f} s",
    )


def _targets(rows: list[Row]) -> str:
    lines = [f"{'':<44}{'measured':>10}{'target':>10}"]
    for row in rows:
        if row.target is not None:
            name = f"answers in time / capacity, {row.case}"
            lines.append(f"{name:<44}{row.part:>10.3f}{f'>= {row.target}':>10}")
    own = [row.tally for row in rows if row.target is not None]
    late = sum(tally.count(Ending.LATE) for tally in own)
    refusal = max(tally.p99(Ending.REFUSED) for tally in own) * 1000
    idle = max(tally.idle_after for tally in own)
    lines += [
        f"{'answers after their deadline':<44}{late:>10}{'0':>10}",
        f"{'refusal, p99 of the worst load, ms':<44}{refusal:>10.1f}{'< 20':>10}",
        f"{'idle after the load, worst, s':<44}{idle:>10.2f}{'<= 0.3':>10}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
