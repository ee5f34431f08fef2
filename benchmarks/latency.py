"""Latency of one image: the embedded server over gRPC against the same SavedModel in process.

The in-process model and the server have the same number of threads, and the two are asked in turn,
so that the machine's moods hit both. Target: the server adds at most 3 ms to the median.

    python benchmarks/latency.py [--calls 200] [--threads N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

from served_model import IMAGE, ServedModel, served_model

from mlserve.percentiles import Percentiles

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf


def _in_process(server: ServedModel, image: bytes) -> Callable[[], bytes]:
    loaded = tf.saved_model.load(str(server.path))
    signature = loaded.signatures["top_k"]

    def ask() -> bytes:
        answer = signature(image=tf.constant([image]))
        return bytes(answer["labels"].numpy()[0, 0])

    ask.loaded = loaded  # type: ignore[attr-defined]  # a signature does not keep its model alive
    return ask


def _milliseconds(ask: Callable[[], bytes]) -> float:
    started = time.perf_counter()
    ask()
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Query both in turn and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    image = IMAGE.read_bytes()
    with served_model(options.threads) as server:
        asks = {
            "in process": _in_process(server, image),
            "embedded server": server.ask_over_grpc(image),
        }
        if len({ask() for ask in asks.values()}) != 1:
            raise SystemExit("the two do not give the same answer")
        times: dict[str, list[float]] = {name: [] for name in asks}
        for round_ in range(options.calls + 20):
            for name, ask in asks.items():
                elapsed = _milliseconds(ask)
                if round_ >= 20:
                    times[name].append(elapsed)
    _print_table(times)


def _print_table(times: dict[str, list[float]]) -> None:
    print(f"{'one image, ms':<18}{'p50':>8}{'p95':>8}{'p99':>8}")
    for name, values in times.items():
        found = Percentiles.from_values(values)
        assert found is not None  # there is at least one call
        print(f"{name:<18}{found.p50:>8.2f}{found.p95:>8.2f}{found.p99:>8.2f}")
    pairs = zip(times["embedded server"], times["in process"], strict=True)
    added = statistics.median(server - bare for server, bare in pairs)
    print(f"the server adds {added:.2f} ms (median of the pairs)")


if __name__ == "__main__":
    main()
