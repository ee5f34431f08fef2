"""A ladder at three times the capacity of its last rung, and the curve over the margin.

EfficientNet-Lite0 with its real weights, in fp32 and quantised to int8 by ONNX Runtime; the images
are crops of photos that the quantisation has not seen. Three servers get the same load, one after
the other: fp32 alone, the ladder that refuses uncertain answers, and the ladder that gives them.
Capacity is what the fp32 server answers to a few patient clients. Every answer's label is held
against the fp32 server's, so that a changed label is seen.

The curve needs no load: of the same images it says, for bounds from none to four differences, how
many would climb, how many labels would differ, and what that makes of the capacity by the measured
times of the two rungs.

    python benchmarks/ladder.py [--seconds 10] [--images 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from ladder_models import crops, rung_scores, write_cheap_rung

MLSERVE = (sys.executable, "-m", "mlserve")
BACKEND, MODEL = "onnxruntime", "efficientnet_lite0"
OVERLOAD, CLIENTS = 3, 4
TIMEOUT, PATIENT = 0.5, 30.0
NOTICE, PART_TO_NOTICE = 0.005, 0.01
"""What this program itself may take to notice an answer: seconds, and the part of the timeout."""
CALIBRATION = 32
BOUNDS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Bounds of the curve, as multiples of the largest difference that was measured. The servers here
have 2. What `mlserve export` certifies has 4: two scores, a tolerance of twice the difference."""


@dataclass
class Outcomes:
    """What became of a load's requests, and of the labels of those answered in time."""

    seconds: float
    answered: int = 0
    late: int = 0
    changed: int = 0
    changed_unmarked: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)

    @property
    def goodput(self) -> float:
        """Return the answers in time a second."""
        return self.answered / self.seconds


@dataclass(frozen=True)
class Answer:
    """One answer: its HTTP status, the label and the rung, and how long it took in seconds."""

    status: int
    label: str
    rung: str
    seconds: float


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--images", type=int, default=200, help="held-out images")
    parser.add_argument("--json", type=Path, help="write the figures into this file, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlserve-ladder-") as home:
        env = {**os.environ, "MLSERVE_HOME": home}
        folder = Path(_run(env, "export", "--backend", BACKEND, "--model", MODEL).splitlines()[0])
        images = crops(CALIBRATION + options.images)
        calibration, held_out = images[:CALIBRATION], images[CALIBRATION:]
        difference = write_cheap_rung(folder, 2, calibration)
        curve = list(_curve(folder.parent, held_out, difference))
        rows = _overloads(env, held_out, options.seconds)
    print(_table(rows))
    print(_curve_table(curve, difference))
    if options.json:
        result = {"difference": difference, "loads": rows, "curve": curve}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def _overloads(
    env: dict[str, str], images: Sequence[bytes], seconds: float
) -> list[dict[str, Any]]:
    """Return what became of the load on each server, beside the capacity of fp32."""
    with _server(env, "--version", "1") as address:
        labels = [answer.label for answer in asyncio.run(_each(address, images))]
        capacity = asyncio.run(_closed(address, images, labels, seconds)).goodput
        alone = asyncio.run(_open(address, images, labels, OVERLOAD * capacity, seconds))
    rows = [_row("fp32 alone", alone, capacity)]
    for policy in ("refuse", "answer"):
        with _server(env, "--ladder", "int8,fp32", "--ladder-policy", policy) as address:
            asyncio.run(_closed(address, images, labels, seconds / 2))  # it learns its times
            found = asyncio.run(_open(address, images, labels, OVERLOAD * capacity, seconds))
        rows.append(_row(f"ladder, {policy}", found, capacity))
    return rows


def _row(name: str, found: Outcomes, capacity: float) -> dict[str, Any]:
    shares = {"goodput": found.goodput, "part_of_capacity": found.goodput / capacity}
    data = asdict(found) | {"statuses": dict(found.statuses), "rungs": dict(found.rungs)}
    return {"server": name, "capacity": capacity, **shares, **data}


def _curve(base: Path, images: Sequence[bytes], difference: float) -> Iterator[dict[str, float]]:
    """Yield what each bound would do to these images, and to the capacity."""
    cheap, cheap_seconds = rung_scores(base, 2, images)
    right, right_seconds = rung_scores(base, 1, images)
    second, best = np.sort(cheap, axis=1)[:, -2:].T
    is_changed = cheap.argmax(axis=1) != right.argmax(axis=1)
    for times in BOUNDS:
        climbs = best - second <= times * difference if times else np.zeros(len(images), bool)
        seconds = cheap_seconds + climbs.mean() * right_seconds
        yield {
            "bound": times,
            "images": len(images),
            "climbs": float(climbs.mean()),
            "labels_changed": int((is_changed & ~climbs).sum()),
            "part_of_capacity": right_seconds / seconds,
        }


async def _each(address: str, images: Sequence[bytes]) -> list[Answer]:
    """Return the answer to each image, asked one after the other."""
    connection = _Connection(address)
    return [await connection.ask(image, PATIENT) for image in images]


async def _closed(
    address: str, images: Sequence[bytes], labels: Sequence[str], seconds: float
) -> Outcomes:
    """Ask with a few patient clients for so many seconds."""
    found, until = Outcomes(seconds), time.monotonic() + seconds

    async def client(number: int) -> None:
        connection = _Connection(address)
        chance = random.Random(number)
        while time.monotonic() < until:
            index = chance.randrange(len(images))
            answer = await connection.ask(images[index], PATIENT)
            if time.monotonic() < until:
                _count(found, answer, labels[index], PATIENT)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return found


async def _open(
    address: str, images: Sequence[bytes], labels: Sequence[str], rate: float, seconds: float
) -> Outcomes:
    """Ask at random moments, `rate` times a second, whatever becomes of those before."""
    found, chance = Outcomes(seconds), random.Random(1)
    free: list[_Connection] = []
    asked = []

    async def ask(index: int) -> None:
        connection = free.pop() if free else _Connection(address)
        answer = await connection.ask(images[index], TIMEOUT)
        free.append(connection)
        _count(found, answer, labels[index], TIMEOUT)

    at = began = time.monotonic()
    while (at := at + chance.expovariate(rate)) < began + seconds:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        asked.append(asyncio.create_task(ask(chance.randrange(len(images)))))
    await asyncio.gather(*asked)
    return found


def _count(found: Outcomes, answer: Answer, label: str, timeout: float) -> None:
    found.statuses[answer.status] += 1
    if answer.status != 200:
        return
    if answer.seconds > timeout + max(NOTICE, PART_TO_NOTICE * timeout):
        found.late += 1
        return
    found.answered += 1
    found.rungs[answer.rung or "fp32"] += 1
    if answer.label != label:
        found.changed += 1
        found.changed_unmarked += "uncertain" not in answer.rung


class _Connection:
    """A connection over HTTP/1.1 that asks for one label at a time."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._host, self._port = parts.hostname, parts.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, image: bytes, patience: float) -> Answer:
        """Return the answer; the server is given `patience` seconds."""
        began = time.monotonic()
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        text = base64.b64encode(image).decode()
        body = json.dumps({"inputs": [{"b64": text}]}).encode()
        head = (
            f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\nhost: {self._host}\r\n"
            f"x-request-timeout-ms: {patience * 1000:.0f}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        content = json.loads(await reader.readexactly(int(headers["content-length"])))
        if headers.get("connection") == "close":
            writer.close()
            self._streams = None
        (label,) = content.get("outputs") or ("",)
        rung = headers.get("x-mlserve-rung", "")
        return Answer(int(lines[0].split()[1]), label, rung, time.monotonic() - began)


@contextmanager
def _server(env: dict[str, str], *flags: str) -> Iterator[str]:
    """Serve the model; yield the address of its REST port."""
    _run(env, "up", "--backend", BACKEND, "--model", MODEL, "--launcher", "embedded", *flags,
         "--grpc-port", "0", "--rest-port", "0")  # fmt: skip
    try:
        yield json.loads(_run(env, "ps", "--output", "json"))[0]["rest"]
    finally:
        _run(env, "down", "--all")


def _run(env: dict[str, str], *args: str) -> str:
    done = subprocess.run(
        [*MLSERVE, *args], env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=600
    )
    return done.stdout


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = (
        "| server | answers in time /s | of the fp32 capacity | labels changed | of them unmarked"
    )
    lines = [f"{columns} | rungs | statuses |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row['server']} | {row['goodput']:.1f} | {row['part_of_capacity']:.2f} | "
        f"{row['changed']} of {row['answered']} | {row['changed_unmarked']} | "
        f"{_counts(row['rungs'])} | {_counts(row['statuses'])} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _counts(counts: dict[Any, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def _curve_table(curve: Sequence[dict[str, float]], difference: float) -> str:
    lines = [
        f"The largest difference of int8 that was measured at export is {difference:.4f}.",
        "| bound, in differences | climb | labels changed | of the fp32 capacity |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {each['bound']:g} | {each['climbs']:.0%} | {each['labels_changed']} of "
        f"{each['images']} | {each['part_of_capacity']:.2f} |"
        for each in curve
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
