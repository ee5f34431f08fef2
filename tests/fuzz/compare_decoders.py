"""Compares the two backends' decoders on damaged JPEG and PNG files: `make fuzz` runs it in full.

    python tests/fuzz/compare_decoders.py [--files 10000] [--seed 0]

TensorFlow decodes with the graph's own steps, as they are exported; ONNX Runtime's backend decodes
in Python. Prints a table by kind of damage. Exit code 1 when one takes what the other refuses, or
when pixels differ; what docs/parity.md says of progressive files that lack scans is counted apart.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from mlserve_tfserving.backend import import_tensorflow, quiet_logs

from mlserve.image_pipeline.codec import Refused
from mlserve.image_pipeline.image_file import decoded_image as decoded_in_python
from mlserve.image_pipeline.jpeg import lacks_scans
from mlserve.images import JPEG_MAGIC
from mlserve.testing.colours import PIPELINE
from tests.fuzz.damaged import DamagedFile, damaged_files

SETTINGS = replace(PIPELINE, max_pixels=1_000_000)
SAME, REFUSED, LACKS_SCANS, DIFFER = "both accept", "both refuse", "lacks scans", "differ"
COLUMNS = (SAME, REFUSED, LACKS_SCANS, DIFFER)

Decode = Callable[[bytes], Any]


def in_graph() -> Decode:
    """The decoder of the exported graph: uint8[height, width, 3], or None for a refused file."""
    import tensorflow as tf
    from mlserve_tfserving.graph import decoded_image

    step = tf.function(
        lambda image: decoded_image(tf.constant(0), image, SETTINGS),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )

    def decode(data: bytes) -> Any:
        try:
            return step(tf.constant(data)).numpy()
        except tf.errors.InvalidArgumentError:
            return None

    return decode


def in_python(data: bytes) -> Any:
    """The decoder of the pipeline in Python: the same."""
    try:
        return decoded_in_python(data, SETTINGS.limits)
    except Refused:
        return None


def verdict(data: bytes, theirs: Any, ours: Any) -> str:
    """The column that this file is counted in."""
    if theirs is None and ours is None:
        return REFUSED
    if theirs is not None and ours is not None:
        return SAME if np.array_equal(theirs, ours) else DIFFER
    is_known = ours is None and data.startswith(JPEG_MAGIC) and lacks_scans(data)
    return LACKS_SCANS if is_known else DIFFER


def table(counts: Counter[tuple[str, str]]) -> Iterable[str]:
    """The lines of the printed table, with the sum at its end."""
    kinds = list(dict.fromkeys(kind for kind, _ in counts))
    yield f"{'damage':34}{'files':>7}" + "".join(f"{column:>13}" for column in COLUMNS)
    for kind in kinds:
        row = [counts[kind, column] for column in COLUMNS]
        yield f"{kind:34}{sum(row):7}" + "".join(f"{number:13}" for number in row)
    totals = [sum(counts[kind, column] for kind in kinds) for column in COLUMNS]
    yield f"{'all':34}{sum(totals):7}" + "".join(f"{number:13}" for number in totals)


def _watched(files: Iterable[DamagedFile], count: int) -> Any:
    """The files, with a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext(files)
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)

    class Watched:
        def __enter__(self) -> Iterable[DamagedFile]:
            bar.start()
            return bar.track(files, total=count, description="decoding")

        def __exit__(self, *_: object) -> None:
            bar.stop()

    return Watched()


def say(text: str) -> None:
    """Writes to stdout."""
    sys.stdout.write(text + "\n")


def main() -> None:
    """Decodes each file in both ways, prints the table, and fails when two differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    options = parser.parse_args()
    quiet_logs()
    import_tensorflow()
    decode = in_graph()
    counts: Counter[tuple[str, str]] = Counter()
    with _watched(damaged_files(options.files, options.seed), options.files) as files:
        for file in files:
            found = verdict(file.data, decode(file.data), in_python(file.data))
            counts[file.damage, found] += 1
            if found == DIFFER:
                say(f"file {file.number} of seed {options.seed} differs: {file.damage}")
    say("\n".join(table(counts)))
    if any(counts[kind, DIFFER] for kind, _ in tuple(counts)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
