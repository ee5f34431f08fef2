"""Load honest artifacts 50 times, and see that none is refused and what its golden inputs cost.

Each load is a process of its own that does what a server does: it checks the files, loads the
version, warms it up and asks the first golden inputs. Then it asks them all, alone and in a batch.
The versions of a store are taken in turn, with one thread and two, and with the instruction sets
and kernels that a runtime may be told to use. Without a store, EfficientNet-Lite0 with random
weights is exported for each backend that is given.

    python benchmarks/honest_starts.py [--starts 50] [--store DIR | --backend NAME ...]
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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.certificate.golden import read_golden
from mlserve.certificate.verdict import judge
from mlserve.errors import ModelLoadFailed
from mlserve.load_options import LoadOptions
from mlserve.server.models.loading import warm_up
from mlserve.server.models.standing import begin
from mlserve.server.models.versions import ModelSpec
from mlserve.store import Store, VersionPolicy

MODEL = "efficientnet_lite0"
BACKENDS = ("onnxruntime", "tfserving", "openvino")
CIRCUMSTANCES = (
    {},
    {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    {"TF_ENABLE_ONEDNN_OPTS": "0"},
    {"ATEN_CPU_CAPABILITY": "default"},
)
"""Environments in which an honest artifact must hold too."""


@dataclass(frozen=True)
class Start:
    """One load: seconds until it was warm, seconds of its first golden inputs, and the verdict."""

    load: float
    golden: float
    asked: int
    difference: float
    tolerance: float
    problem: str


def main() -> None:
    arguments = _arguments()
    if arguments.one is not None:
        print(json.dumps(asdict(_start(*arguments.one[:3], int(arguments.one[3])))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        store = arguments.store or Path(scratch)
        if arguments.store is None:
            for backend in arguments.backend or BACKENDS:
                _mlserve("export", "--backend", backend, "--model", MODEL, "--store", store)
        _report(list(_starts(store, arguments.starts)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--starts", type=int, default=50)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--backend", action="append")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


def _mlserve(*words: object) -> None:
    weights = ["--weights", "random"]
    subprocess.run([sys.executable, "-m", "mlserve", *map(str, words), *weights], check=True)


def _starts(store: Path, count: int) -> Iterator[tuple[str, Start]]:
    """Load the certified versions of the store in turn, and yield each with its backend."""
    found = [
        (backend, model)
        for backend, model in _models(store)
        if (store / backend / model / "1" / "golden").is_dir()
    ]
    kinds = [(each, env, threads) for env in CIRCUMSTANCES for threads in (1, 2) for each in found]
    for (backend, model), env, threads in islice(cycle(kinds), count):
        one = [backend, model, str(store), str(threads)]
        done = subprocess.run(
            [sys.executable, __file__, "--one", *one],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            check=True,
        )
        start = Start(**json.loads(done.stdout.splitlines()[-1]))
        circumstance = " ".join(f"{key}={value}" for key, value in env.items())
        print(f"{backend}/{model} {threads} threads {circumstance}: {start}", flush=True)
        yield f"{backend}/{model}", start


def _models(store: Path) -> list[tuple[str, str]]:
    root = Store(store).root
    return sorted((path.parent.name, path.name) for path in root.glob("*/*") if path.is_dir())


def _start(backend_name: str, model: str, store: str, threads: int) -> Start:

    backend = plugins.backend(backend_name)
    options = LoadOptions(threads=threads)
    base_path = Path(store) / backend_name / model
    spec = ModelSpec(backend, model, base_path, VersionPolicy(), options, 0.0)
    began = time.monotonic()
    artifact = Artifact.open(base_path, model, 1)
    artifact.require_whole()
    runner = backend.load(artifact, options)
    warm_up(artifact, runner)
    load = time.monotonic() - began
    assert artifact.manifest is not None
    certificate = artifact.manifest.certificate
    assert certificate is not None
    try:
        standing = begin(spec, artifact, runner, load)
    except ModelLoadFailed as refused:
        return Start(load, 0.0, 0, float("inf"), certificate.tolerance, refused.message)
    golden = time.monotonic() - began - load
    verdict = judge(artifact, runner, read_golden(artifact.path), certificate)
    problem = verdict.problems[0].problem if verdict.problems else ""
    asked = len(standing.verdicts)
    return Start(load, golden, asked, verdict.difference, certificate.tolerance, problem)


def _report(starts: list[tuple[str, Start]]) -> None:
    print("\n| version | starts | refused | largest difference | allowed | load | golden inputs |")
    print("|---|---|---|---|---|---|---|")
    for name in sorted({name for name, _ in starts}):
        own = [start for each, start in starts if each == name]
        refused = sum(bool(start.problem) for start in own)
        far = max(start.difference for start in own)
        load = statistics.median(start.load for start in own)
        share = statistics.median(start.golden / start.load for start in own)
        print(
            f"| {name} | {len(own)} | {refused} | {far:.1g} | {own[0].tolerance:.1g} "
            f"| {load:.2f} s | {share:.0%} |"
        )


if __name__ == "__main__":
    main()
