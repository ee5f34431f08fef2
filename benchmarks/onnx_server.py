"""The ONNX Runtime server against the same model in this process, with the same threads.

Inception v3 with random weights, one 12 kB photo. Targets: one client waits at most 2.5 ms longer
than in process (median of the pairs), 4 clients get at least 0.95 of its throughput, ready within
2.5 s, RSS at most 450 MB.

    python benchmarks/onnx_server.py [--calls 100] [--rounds 3] [--threads N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
from served_model import IMAGE, ServedModel, served_model

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.load_options import LoadOptions

BACKEND, MODEL = "onnxruntime", "inception_v3"
CLIENTS = 4
WARM_UP = 10

Ask = Callable[[], bytes]


def _in_process(server: ServedModel, image: bytes, threads: int) -> Ask:
    artifact = Artifact.open(server.path.parent, server.model, int(server.path.name))
    runner = plugins.backend(BACKEND).load(artifact, LoadOptions(threads))
    inputs = {"image": np.array([image], dtype=object)}
    return lambda: bytes(runner.run("top_k", inputs)["labels"][0, 0])


def _milliseconds(ask: Ask) -> float:
    started = time.perf_counter()
    ask()
    return (time.perf_counter() - started) * 1000


def _latencies(asks: dict[str, Ask], calls: int) -> dict[str, list[float]]:
    """Time all in turn, so that noise affects each; return milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in asks}
    for number in range(calls + WARM_UP):
        for name, ask in asks.items():
            elapsed = _milliseconds(ask)
            if number >= WARM_UP:
                times[name].append(elapsed)
    return times


def _throughput(asks: list[Ask], calls: int) -> float:
    """Return answers per second when each of these clients sends one request after another."""

    def many(ask: Ask) -> None:
        for _ in range(calls // len(asks)):
            ask()

    with ThreadPoolExecutor(len(asks)) as clients:
        started = time.perf_counter()
        list(clients.map(many, asks))
        return calls // len(asks) * len(asks) / (time.perf_counter() - started)


def main() -> None:
    """Measure both and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="of throughput, each of all calls")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    image = IMAGE.read_bytes()
    with served_model(options.threads, backend=BACKEND, model=MODEL, weights="random") as server:
        in_process = _in_process(server, image, options.threads)
        asks = {"in process": in_process, "server": server.ask_over_grpc(image)}
        if len({ask() for ask in asks.values()}) != 1:
            raise SystemExit("the two do not give the same answer")
        times = _latencies(asks, options.calls)
        crowds = {
            "in process": [in_process] * CLIENTS,
            "server": [server.ask_over_grpc(image) for _ in range(CLIENTS)],
        }
        rates: dict[str, list[float]] = {name: [] for name in crowds}
        for _ in range(options.rounds):
            for name, crowd in crowds.items():
                rates[name].append(_throughput(crowd, options.calls))
        memory = psutil.Process(server.pid).memory_info().rss / 1e6
        _print_tables(times, rates, server.seconds_to_ready, memory)


def _print_tables(
    times: dict[str, list[float]], rates: dict[str, list[float]], ready: float, memory: float
) -> None:
    print(f"{MODEL:<18}{'p50 ms':>8}{'p95 ms':>8}{'p99 ms':>8}{f'{CLIENTS} clients, 1/s':>16}")
    for name, values in times.items():
        cuts = statistics.quantiles(values, n=100)
        rate = statistics.median(rates[name])
        print(f"{name:<18}{cuts[49]:>8.2f}{cuts[94]:>8.2f}{cuts[98]:>8.2f}{rate:>16.1f}")
    turns = zip(times["server"], times["in process"], strict=True)
    added = statistics.median(server - bare for server, bare in turns)
    pairs = zip(rates["server"], rates["in process"], strict=True)
    kept = statistics.median(server / bare for server, bare in pairs)
    print(f"{'':<34}{'measured':>10}{'target':>10}")
    print(f"{'above in process, median ms':<34}{added:>10.2f}{'<= 2.5':>10}")
    print(f"{'throughput, part of in process':<34}{kept:>10.2f}{'>= 0.95':>10}")
    print(f"{'`mlserve up` until ready, s':<34}{ready:>10.2f}{'<= 2.5':>10}")
    print(f"{'RSS of the server, MB':<34}{memory:>10.0f}{'<= 450':>10}")


if __name__ == "__main__":
    main()
