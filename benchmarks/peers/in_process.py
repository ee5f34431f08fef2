"""The same work without any server: so many callers of one session, as a ceiling.

    python benchmarks/peers/in_process.py MODEL_FOLDER IMAGE CALLERS THREADS SECONDS

prints answers a second and latencies in milliseconds as JSON. THREADS is what one run has; with
more than one they spin while they wait, as ONNX Runtime's threads do by default.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "serving"))


def main() -> None:
    """Run the model for some seconds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("callers", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    from classifier import Model

    model, image = Model(options.model, options.threads), options.image.read_bytes()
    latencies: list[float] = []
    begin = time.perf_counter() + 0.3  # until then it warms up
    end = begin + options.seconds

    def call() -> None:
        while (started := time.perf_counter()) < end:
            model.classify(image)
            if begin <= started:
                latencies.append(time.perf_counter() - started)

    callers = [threading.Thread(target=call) for _ in range(options.callers)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    rate = len(latencies) / options.seconds
    print(json.dumps({"rate": rate, "p50": cuts[49] * 1000, "p99": cuts[98] * 1000}))


if __name__ == "__main__":
    main()
