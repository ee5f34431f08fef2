"""A runner of ONNX Runtime against the same work done by hand in this process, and its memory.

    python benchmarks/width.py [--model NAME ...] [--weights random] [--seconds 2] [--rounds 3]
                               [--json FILE]

For 1, 2 and 4 callers, in turns: decode, resize, run, softmax and top 5 by hand, with a session of
all threads that spin (ONNX Runtime's default), one whose threads sleep, and one of a single thread;
then the runner, told how many threads a call may use as the server tells it. A rate is answers a
second; on a machine with other work, read the CPU milliseconds of a call instead. Then the CPU time
of each step, and the memory (PSS) of a process with the model loaded and run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import simplejpeg
from served_model import MLSERVE

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.backend import Runner, limit_threads
from mlserve.deadline import Deadline
from mlserve.image_pipeline.float_resizing import resized
from mlserve.image_pipeline.image_file import decoded_image
from mlserve.image_pipeline.prepare import prepare
from mlserve.image_pipeline.steps import activated, best
from mlserve.load_options import LoadOptions
from mlserve.pipeline import ImagePipeline
from mlserve.system import give_back_large_blocks, usable_cpus

BACKEND = "onnxruntime"
MODELS = ("efficientnet_lite0", "inception_v3")
CALLERS = (1, 2, 4)
TOP = 5
WARM_UP = 3
Ask = Callable[[], object]


def photo(seed: int = 0) -> bytes:
    """Make a JPEG of about 64 kB, 640x480, with the grain of a camera."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (31, 41, 3), dtype=np.uint8)
    grain = rng.normal(0, 6, (480, 640, 1)).astype(np.float32)
    pixels = np.clip(resized(coarse, 480, 640) + grain, 0, 255).astype(np.uint8)
    data: bytes = simplejpeg.encode_jpeg(pixels, quality=77, colorsubsampling="420")
    return data


def exported(home: str, model: str, weights: str | None, backend: str = BACKEND) -> Artifact:
    """Export the model into that folder."""
    argv = [*MLSERVE, "export", "--backend", backend, "--model", model]
    if weights is not None:
        argv += ["--weights", weights]
    env = {**os.environ, "MLSERVE_HOME": home}
    done = subprocess.run(
        argv,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
        stderr=subprocess.DEVNULL,
    )
    folder = Path(done.stdout.splitlines()[0])
    return Artifact.open(folder.parent, model, int(folder.name))


def session_of(artifact: Artifact, threads: int, *, spins: bool) -> Any:
    """Open the model as its file is, as any program would."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    file = artifact.path / "model.onnx"
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def by_hand(session: Any, image: bytes, pipeline: ImagePipeline, labels: Sequence[str]) -> Ask:
    """Return a function that does the whole work with the least code."""
    (given,) = session.get_inputs()
    is_planar = given.shape[1] == pipeline.preprocessing.depth
    height, width = pipeline.size

    def ask() -> object:
        pixels = simplejpeg.decode_jpeg(image, fastdct=False, fastupsample=False)
        numbers = resized(pixels, height, width)
        numbers *= np.float32(pipeline.scale)
        numbers += np.float32(pipeline.offset)
        batch = numbers[np.newaxis]
        batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2)) if is_planar else batch
        (outputs,) = session.run(None, {given.name: batch})
        scores = outputs[0]
        top = np.argpartition(-scores, TOP)[:TOP]
        return [labels[index] for index in top[np.argsort(-scores[top])]]

    return ask


def by_runner(runner: Runner, image: bytes, threads: int) -> Ask:
    """Return a function that asks the runner as a worker of the server does."""
    inputs = {"image": np.array([image], dtype=object)}

    def ask() -> object:
        limit_threads(runner, threads)
        return runner.run("top_k", inputs, Deadline.after(60))

    return ask


def measured(ask: Ask, callers: int, seconds: float) -> dict[str, float]:
    """Return answers a second, the median latency and the CPU time of an answer, in ms."""
    times: list[float] = []
    for _ in range(WARM_UP):
        ask()

    def work(end: float) -> None:
        while (began := time.perf_counter()) < end:
            ask()
            times.append(time.perf_counter() - began)

    with ThreadPoolExecutor(callers) as threads:
        began, spent = time.perf_counter(), time.process_time()
        list(threads.map(work, [began + seconds] * callers))
        took, spent = time.perf_counter() - began, time.process_time() - spent
    return {
        "rate": len(times) / took,
        "p50": statistics.median(times) * 1e3,
        "cpu": spent / len(times) * 1e3,
    }


def rates(artifact: Artifact, image: bytes, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure all in turns, so that noise affects each; return the medians."""
    assert artifact.manifest is not None
    assert artifact.manifest.pipeline is not None
    pipeline, cpus = artifact.manifest.pipeline, usable_cpus()
    labels = pipeline.full_labels(artifact.labels())
    hand = {
        "all threads, spinning": session_of(artifact, cpus, spins=True),
        "all threads": session_of(artifact, cpus, spins=False),
        "one thread": session_of(artifact, 1, spins=False),
    }
    asks = {name: by_hand(session, image, pipeline, labels) for name, session in hand.items()}
    runner = plugins.backend(BACKEND).load(artifact, LoadOptions())
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for callers in CALLERS:
            threads = max(1, cpus // callers)
            every = {**asks, "runner": by_runner(runner, image, threads)}
            for name, ask in every.items():
                key = f"{callers} x {name}"
                found.setdefault(key, []).append(measured(ask, callers, seconds))
    return {
        key: {what: statistics.median(each[what] for each in runs) for what in runs[0]}
        for key, runs in found.items()
    }


def cpu_microseconds(ask: Ask, calls: int = 60) -> float:
    """Return the lower quartile of the calling thread's CPU time."""
    times = []
    for _ in range(calls + WARM_UP):
        began = time.thread_time()
        ask()
        times.append(time.thread_time() - began)
    return statistics.quantiles(times[WARM_UP:], n=4)[0] * 1e6


def steps(artifact: Artifact, image: bytes) -> dict[str, float]:
    """Return the CPU microseconds of each step on one thread, and of the whole run."""
    assert artifact.manifest is not None
    assert artifact.manifest.pipeline is not None
    pipeline = artifact.manifest.pipeline
    runner = plugins.backend(BACKEND).load(artifact, LoadOptions(threads=1))
    forward = runner._forward  # type: ignore[attr-defined]  # noqa: SLF001
    decoded = decoded_image(image, pipeline.limits)
    pixels = np.empty((1, *pipeline.size, pipeline.preprocessing.depth), np.float32)
    outputs = forward(pixels)
    scores = activated(outputs, pipeline.activation)
    deadline = Deadline.after(600)
    return {
        name: cpu_microseconds(ask)
        for name, ask in {
            "bare decoder": partial(
                simplejpeg.decode_jpeg, image, fastdct=False, fastupsample=False
            ),
            "decode and checks": lambda: decoded_image(image, pipeline.limits),
            "resize and scale": lambda: prepare(decoded, pipeline, deadline, pixels[0]),
            "model": lambda: forward(pixels, deadline),
            "scores": lambda: activated(outputs, pipeline.activation),
            "top": lambda: best(scores, TOP),
            "whole run": by_runner(runner, image, 1),
        }.items()
    }


def memory(folder: Path, model: str, what: str) -> None:
    """Print the PSS in MB that this process has grown by with the model loaded and run."""
    give_back_large_blocks()
    artifact = Artifact.open(folder.parent, model, int(folder.name))
    cpus, before = usable_cpus(), pss()
    asks: list[Ask] = []
    if what == "runner":
        runner = plugins.backend(BACKEND).load(artifact, LoadOptions())
        asks = [by_runner(runner, photo(), threads) for threads in (cpus, 1)]
    else:
        assert artifact.manifest is not None
        assert artifact.manifest.pipeline is not None
        for threads in (cpus, 1)[: int(what)]:
            session = session_of(artifact, threads, spins=False)
            asks.append(by_hand(session, photo(), artifact.manifest.pipeline, artifact.labels()))
    for ask in asks:
        ask()
    print(pss() - before)


def pss() -> float:
    """Return the proportional set size of this process in MB."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this kernel does not say how much memory a process has")


def memories(artifact: Artifact) -> dict[str, float]:
    """Return `memory` of the ways to have the model, each in a process of its own."""
    ways = {"one session": "1", "a session of each width": "2", "runner": "runner"}
    found = {}
    for name, what in ways.items():
        argv = [sys.executable, __file__, "--memory", what, "--folder", str(artifact.path)]
        argv += ["--model", artifact.model]
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
        found[name] = float(done.stdout)
    return found


def print_table(model: str, found: Mapping[str, Any]) -> None:
    """Print what was measured of one model."""
    print(f"\n{model}\n{'':34}{'answers/s':>10}{'of best':>9}{'p50 ms':>9}{'CPU ms':>9}")
    for callers in CALLERS:
        rows = {k: v for k, v in found["rates"].items() if k.startswith(f"{callers} x")}
        most = max(row["rate"] for name, row in rows.items() if not name.endswith("runner"))
        for name, row in rows.items():
            print(
                f"{name:34}{row['rate']:10.1f}{row['rate'] / most:9.2f}{row['p50']:9.2f}"
                f"{row['cpu']:9.2f}"
            )
    print("CPU us  " + ", ".join(f"{name} {us:.0f}" for name, us in found["steps"].items()))
    print("PSS MB  " + ", ".join(f"{name} {mb:.0f}" for name, mb in found["memory"].items()))


def main() -> None:
    """Measure each model and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append")
    parser.add_argument("--weights", help="random, for speed only")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of the rates")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        memory(options.folder, options.model[0], options.memory)
        return
    give_back_large_blocks()  # as the server does
    image, results = photo(), {}
    for model in options.model or MODELS:
        with tempfile.TemporaryDirectory(prefix="mlserve-bench-") as home:
            artifact = exported(home, model, options.weights)
            results[model] = {
                "rates": rates(artifact, image, options.seconds, options.rounds),
                "steps": steps(artifact, image),
                "memory": memories(artifact),
            }
        print_table(model, results[model])
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
