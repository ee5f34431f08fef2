"""The OpenVINO server at each precision, beside OpenVINO in this process and the ONNX server.

    python benchmarks/openvino_server.py [--model NAME] [--weights random] [--seconds 3]
                                         [--rounds 3] [--json FILE]

One model, exported for OpenVINO in fp32, bf16 and int8, and for ONNX Runtime in fp32; a server of
each runs all the time, with the same CPUs. In turns, so that noise affects each: 1, 4 and 16
clients that ask over gRPC, and as many threads in this process that decode, resize, run and take
the top 5 by hand, with the model compiled for latency (one stream of all threads) and for
throughput (a stream of one thread for each CPU), for one image each. The better of the two is what
the server is held to. The figures are medians of the rounds.

Targets: at 4 and 16 clients at least 0.90 of OpenVINO in process. At 16 clients int8 at least 4
times the ONNX server with VNNI or AMX (else 1.7), bf16 3.5 times with AMX; at one client int8
answers in a quarter of the time with AMX.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import simplejpeg
from served_model import IMAGE, MLSERVE
from width import measured, photo

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.backend import Quantization
from mlserve.bench.load import ClosedLoop, Window
from mlserve.bench.measure import measure
from mlserve.bench.questions import ImageQuestion, target_for
from mlserve.bench.target import Target
from mlserve.client.endpoint import Connection
from mlserve.deadline import Deadline
from mlserve.export import _source_for, export, manifest_of, no_progress
from mlserve.image_pipeline.float_resizing import resized
from mlserve.image_pipeline.image_file import decoded_image
from mlserve.image_pipeline.prepare import prepare
from mlserve.pipeline import ImagePipeline
from mlserve.precision import Precision
from mlserve.sources import ModelRequest
from mlserve.system import give_back_large_blocks, usable_cpus

MODEL = "inception_v3"
PRECISIONS = (Precision.FP32, Precision.BF16, Precision.INT8)
CLIENTS = (1, 4, 16)
CALIBRATED = 64
TIMEOUT = 60.0
TOP = 5
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
ONNX = "onnx fp32"
Ask = Callable[[], object]


def export_all(model: str, weights: str | None, home: Path) -> None:
    """Export the model for both backends, each into a store of its own below `home`."""
    request = ModelRequest(model, weights=weights)
    export(request, "onnxruntime", store=home / "onnx")
    backend = plugins.backend("openvino")
    source = _source_for(request)
    backend.prepare(source.framework)
    opened = source.open(request, no_progress)
    pixels = list(crops(opened.pipeline, CALIBRATED))  # type: ignore[union-attr]
    for precision in PRECISIONS:
        folder = home / precision / "openvino" / model / "1"
        folder.mkdir(parents=True)
        signatures = backend.export_at(opened, folder, Quantization(precision, pixels))
        manifest = manifest_of(opened, "openvino", signatures)
        replace(manifest, precision=precision).write(folder, opened.labels)  # type: ignore[union-attr]


def crops(pipeline: ImagePipeline, count: int) -> Iterator[dict[str, Any]]:
    """Yield seeded crops of a photo as the model gets them, to calibrate with."""
    rng = np.random.default_rng(0)
    whole = decoded_image(IMAGE.read_bytes(), pipeline.limits)
    for _ in range(count):
        side = int(min(whole.shape[:2]) * rng.uniform(0.4, 1))
        top, left = (int(rng.integers(0, size - side + 1)) for size in whole.shape[:2])
        pixels = np.empty((1, *pipeline.size, pipeline.preprocessing.depth), np.float32)
        part = np.ascontiguousarray(whole[top : top + side, left : left + side])
        prepare(part, pipeline, None, pixels[0])
        yield {"images": pixels}


@contextmanager
def server(home: Path, backend: str, model: str, image: bytes) -> Iterator[Target]:
    """Serve what the store below `home` holds, and yield what is asked of it."""
    run = partial(
        subprocess.run,
        env={**os.environ, "MLSERVE_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    where = ("--store", str(home), "--grpc-port", "0", "--rest-port", "0")
    run([*MLSERVE, "up", "--backend", backend, "--launcher", "embedded", "--model", model, *where])
    try:
        record = json.loads(run([*MLSERVE, "ps", "--output", "json"]).stdout)[0]
        connection = Connection.to(f"{record['host']}:{record['grpc_port']}")
        due = Deadline.after(TIMEOUT)
        target = target_for(home.name, connection, ImageQuestion([image]), TIMEOUT, due)
        yield replace(asyncio.run(target), pids=(record["pid"],))
    finally:
        run([*MLSERVE, "down", "--all"])


def by_hand(artifact: Artifact, image: bytes, precision: Precision, streams: int) -> Ask:
    """Return a function that does the whole work with the least code, for any number of threads."""
    import openvino as ov

    assert artifact.manifest is not None
    assert artifact.manifest.pipeline is not None
    pipeline, labels = artifact.manifest.pipeline, artifact.labels()
    core = ov.Core()
    model = core.read_model(artifact.path / "model.xml")
    model.reshape([1, *pipeline.size, pipeline.preprocessing.depth])
    config = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision is Precision.BF16 else "f32",
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": usable_cpus(),
    }
    compiled = core.compile_model(model, "CPU", config)
    idle = [compiled.create_infer_request() for _ in range(max(CLIENTS))]

    def ask() -> object:
        pixels = simplejpeg.decode_jpeg(image, fastdct=False, fastupsample=False)
        numbers = resized(pixels, *pipeline.size)
        numbers *= np.float32(pipeline.scale)
        numbers += np.float32(pipeline.offset)
        request = idle.pop()
        scores = request.infer([numbers[np.newaxis]], share_inputs=True)[0][0]
        idle.append(request)
        top = np.argpartition(-scores, TOP)[:TOP]
        return [labels[index - pipeline.class_offset] for index in top[np.argsort(-scores[top])]]

    return ask


def run(model: str, weights: str | None, home: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Export, serve and measure; return the medians by name and number of clients."""
    argv = [sys.executable, __file__, "--model", model, "--export", str(home)]
    argv += [] if weights is None else ["--weights", weights]
    subprocess.run(argv, check=True, timeout=900, stdout=subprocess.DEVNULL)
    give_back_large_blocks()  # as the server does
    image, cpus = photo(), usable_cpus()
    hand: dict[str, dict[str, Ask]] = {}
    for precision in PRECISIONS:
        artifact = Artifact.open(home / precision / "openvino" / model, model, 1)
        asks = {"latency": 1, "throughput": cpus}
        hand[precision] = {
            name: by_hand(artifact, image, precision, streams) for name, streams in asks.items()
        }
    found: dict[str, dict[int, list[dict[str, float]]]] = {}
    with ExitStack() as stack:
        servers = [
            stack.enter_context(server(home / name, backend, model, image))
            for name, backend in (("onnx", "onnxruntime"), *((p, "openvino") for p in PRECISIONS))
        ]
        for _ in range(rounds):
            for clients in CLIENTS:
                for target in servers:
                    for name, ask in hand.get(target.name, {}).items():
                        row = measured(ask, clients, seconds)
                        _add(found, f"{target.name} {name}", clients, row)
                    _add(found, f"{target.name} server", clients, _asked(target, clients, seconds))
        memory = {target.name: _pss(target.pids[0]) for target in servers}
    medians = {
        name: {
            clients: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            for clients, rows in of_clients.items()
        }
        for name, of_clients in found.items()
    }
    return {"flags": cpu_flags(), "cpus": cpus, "found": medians, "memory": memory}


def _add(found: Any, name: str, clients: int, row: dict[str, float]) -> None:
    found.setdefault(name, {}).setdefault(clients, []).append(row)


def _asked(target: Target, clients: int, seconds: float) -> dict[str, float]:
    (of_load,) = measure([target], [ClosedLoop(clients)], Window(seconds, 0.5, TIMEOUT))
    if of_load.tally.requests != of_load.tally.in_time:
        raise SystemExit(f"{target.name} refuses or fails: {of_load.tally.failed}")
    return {
        "rate": of_load.goodput,
        "p50": (of_load.latency(0.5) or 0.0) * 1e3,
        "cpu": (of_load.server_cpu_a_request or 0.0) * 1e3,
    }


def _pss(pid: int) -> float:
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(each.memory_full_info().pss for each in processes) / 2**20


def cpu_flags() -> list[str]:
    """Return what the CPU has of the instructions that matter here."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    there = next((line.split() for line in lines if line.startswith("flags")), [])
    return [flag for flag in FLAGS if flag in there]


def print_table(model: str, result: Mapping[str, Any]) -> None:
    """Print the figures, then each target with what was reached."""
    found: Mapping[str, Mapping[int, Mapping[str, float]]] = result["found"]
    print(f"\n{model}, {result['cpus']} CPUs: {' '.join(result['flags']) or 'no known flags'}")
    print(
        f"{'':24}"
        + "".join(f"{f'{n} clients: 1/s':>18}{'p50 ms':>9}{'CPU ms':>9}" for n in CLIENTS)
    )
    for name, rows in found.items():
        cells = (rows[clients] for clients in CLIENTS)
        print(
            f"{name:24}"
            + "".join(f"{c['rate']:18.1f}{c['p50']:9.1f}{c['cpu']:9.1f}" for c in cells)
        )
    print("PSS MB: " + ", ".join(f"{name} {mb:.0f}" for name, mb in result["memory"].items()))
    for line in targets(found, result["flags"]):
        print(line)


def targets(found: Mapping[str, Mapping[int, Mapping[str, float]]], flags: list[str]) -> list[str]:
    """Return a line for each target: what was measured, and what it should be."""
    lines = []
    for precision in PRECISIONS:
        for clients in CLIENTS[1:]:
            best = max(
                found[f"{precision} {way}"][clients]["rate"] for way in ("latency", "throughput")
            )
            part = found[f"{precision} server"][clients]["rate"] / best
            lines.append(f"{precision}, {clients} clients, of in process: {part:.2f} (>= 0.90)")
    busiest, onnx = CLIENTS[-1], found["onnx server"]
    has_amx = "amx_int8" in flags
    fast = has_amx or any("vnni" in flag for flag in flags)
    for precision, least in ((Precision.INT8, 4.0 if fast else 1.7), (Precision.BF16, 3.5)):
        times = found[f"{precision} server"][busiest]["rate"] / onnx[busiest]["rate"]
        note = f">= {least}" if precision is Precision.INT8 or has_amx else "no target without AMX"
        lines.append(f"{precision} server, {busiest} clients, of {ONNX}: {times:.2f} ({note})")
    for precision in PRECISIONS:
        times = onnx[1]["p50"] / found[f"{precision} server"][1]["p50"]
        note = ">= 4 with AMX" if precision is Precision.INT8 else "no target"
        lines.append(f"{precision} server, p50 of one client, times faster: {times:.2f} ({note})")
    return lines


def main() -> None:
    """Measure the model and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--weights", help="random, for speed only")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each of the figures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        export_all(options.model, options.weights, options.export)
        return
    with tempfile.TemporaryDirectory(prefix="mlserve-bench-") as home:
        result = run(options.model, options.weights, Path(home), options.seconds, options.rounds)
    print_table(options.model, result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
