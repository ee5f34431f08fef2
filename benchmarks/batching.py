"""Whether a batch pays on this CPU: images a second in batches, beside calls side by side.

    python benchmarks/batching.py [--backend NAME ...] [--model NAME] [--weights random]
                                  [--seconds 2] [--rounds 3]

The runner of each backend gets batches of 1, 2, 4 and 8 different photos from one caller, with all
threads, and single photos from as many callers as there are CPUs, each on one thread. A batch can
pay only where an image of it takes less CPU time than one alone. It always takes longer until the
first of its answers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile

import numpy as np
from width import Ask, exported, measured, photo

from mlserve import plugins
from mlserve.backend import Runner, limit_threads
from mlserve.deadline import Deadline
from mlserve.load_options import LoadOptions
from mlserve.system import give_back_large_blocks, usable_cpus

BATCHES = (1, 2, 4, 8)


def asking(runner: Runner, batch: int, threads: int) -> Ask:
    """Return a function that asks for that many different photos at once."""
    images = np.array([photo(seed) for seed in range(batch)], dtype=object)

    def ask() -> object:
        limit_threads(runner, threads)
        return runner.run("top_k", {"image": images}, Deadline.after(60))

    return ask


def main() -> None:
    """Measure each backend and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", action="append")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--weights", help="random, for speed only")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of the rates")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    give_back_large_blocks()
    cpus = usable_cpus()
    for backend in options.backend or ("onnxruntime", "tfserving"):
        with tempfile.TemporaryDirectory(prefix="mlserve-bench-") as home:
            artifact = exported(home, options.model, options.weights, backend)
            runner = plugins.backend(backend).load(artifact, LoadOptions())
            ways = {
                f"{cpus} callers, one image each": (asking(runner, 1, 1), cpus, 1),
                **{
                    f"batches of {batch}": (asking(runner, batch, cpus), 1, batch)
                    for batch in BATCHES
                },
            }
            found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
            for _ in range(options.rounds):
                for name, (ask, callers, images) in ways.items():
                    one = measured(ask, callers, options.seconds)
                    found[name].append((one["rate"] * images, one["p50"], one["cpu"] / images))
        print(
            f"\n{options.model}, {backend}\n{'':28}{'images/s':>9}{'p50 ms':>9}{'CPU ms/image':>14}"
        )
        for name, runs in found.items():
            rate, p50, cpu = (statistics.median(each) for each in zip(*runs, strict=True))
            print(f"{name:28}{rate:9.1f}{p50:9.2f}{cpu:14.2f}")


if __name__ == "__main__":
    main()
