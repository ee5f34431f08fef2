"""REST through a mounted server, under uvicorn, beside mlserve's own server of the same model.

The model adds four numbers, so that what is measured is the server. All are asked in turn over
connections that are kept, so that the machine's moods hit each of them.

    python benchmarks/mounted.py [--calls 2000]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx
import psutil
from onnx import TensorProto, helper

MODEL = "sums"
WARM_UP = 200
BODY = json.dumps({"inputs": [[1.0, 2.0, 3.0, 4.0]]}).encode()
OWN = "mlserve's own server"

Ask = Callable[[], object]


def _write_model(folder: Path) -> Path:
    """Write a model of x: float32[N, 4] -> sum: float32[N] as version 1; return its base path."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    total = helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N"])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    node = helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0)
    graph = helper.make_graph([node], MODEL, [x], [total], [axes])
    opset = helper.make_operatorsetid("", 17)
    version = folder / MODEL / "1"
    version.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.save(model, str(version / "model.onnx"))
    return version.parent


@contextmanager
def _started(
    log: Path, announces: str, *argv: str, env: dict[str, str]
) -> Iterator[tuple[int, int]]:
    """Run `python -m ARGV`; yield its process and the port that its log announces."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *argv],
            cwd=Path(__file__).parent,
            env={**os.environ, **env},
            stdout=file,
            stderr=file,
        )
        try:
            while not (found := re.search(announces, log.read_text())):
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.05)
            yield process.pid, int(found[1])
        finally:
            process.terminate()
            process.wait()


def _ask(port: int, path: str) -> Ask:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask() -> object:
        connection.request("POST", path, BODY, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise SystemExit(f"{path}: {answer}")
        return answer["outputs"]

    return ask


def _until_loaded(ask: Ask) -> object:
    while True:
        try:
            return ask()
        except SystemExit:
            time.sleep(0.1)


def main() -> None:
    """Ask all in turn and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    predict = f"/v1/models/{MODEL}:predict"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlserve-bench-")))
        path = str(_write_model(folder))
        served = ("--backend", "onnxruntime", "--model", MODEL, "--base-path", path)
        ports = ("--grpc-port", "0", "--rest-port", "0")
        own = stack.enter_context(
            _started(folder / "own", r"rest=\S+:(\d+)", "mlserve.server", *served, *ports, env={})
        )
        uvicorn = ("uvicorn", "mounted_app:app", "--port", "0", "--no-access-log")
        mounted = stack.enter_context(
            _started(
                folder / "mounted",
                r"running on http://127\.0\.0\.1:(\d+)",
                *uvicorn,
                env={"MODEL_PATH": path},
            )
        )
        asks = {
            OWN: (own[0], _ask(own[1], predict)),
            "mounted, REST": (mounted[0], _ask(mounted[1], f"/ml{predict}")),
            "mounted, a handler that calls infer": (mounted[0], _ask(mounted[1], "/direct")),
        }
        if [_until_loaded(ask) for _, ask in asks.values()] != [[10.0]] * len(asks):
            raise SystemExit("they do not give the same answer")
        _measure(asks, options.calls)


def _measure(asks: dict[str, tuple[int, Ask]], calls: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in asks}
    spent = dict.fromkeys(asks, 0.0)
    for number in range(calls + WARM_UP):
        for name, (process, ask) in asks.items():
            before, started = _cpu_seconds(process), time.perf_counter()
            ask()
            elapsed = time.perf_counter() - started
            if number >= WARM_UP:
                times[name].append(elapsed * 1000)
                spent[name] += _cpu_seconds(process) - before
    print(f"{'one row':<38}{'p50 ms':>8}{'p95 ms':>8}{'CPU ms':>8}")
    for name, values in times.items():
        cuts = statistics.quantiles(values, n=100)
        print(f"{name:<38}{cuts[49]:>8.2f}{cuts[94]:>8.2f}{spent[name] / calls * 1000:>8.2f}")
    for name in list(asks)[1:]:
        pairs = zip(times[name], times[OWN], strict=True)
        ratio = statistics.median(other / own for other, own in pairs)
        print(f"{name}: {ratio:.2f} of the time of {OWN} (median of the pairs)")


def _cpu_seconds(process: int) -> float:
    used = psutil.Process(process).cpu_times()
    return float(used.user + used.system)


if __name__ == "__main__":
    main()
