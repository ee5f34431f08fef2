"""The Python image pipeline on a 12-megapixel JPEG, beside the bare decode of the same file.

    python benchmarks/pipeline.py [--rounds 30]

Both are timed in turns in one process: the decode by simplejpeg (libjpeg-turbo) alone, then decode,
resize to 299x299 and scale, as the onnxruntime backend does them before it runs the model.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg

from mlserve.image_pipeline.float_resizing import resized
from mlserve.image_pipeline.image_file import decoded_image
from mlserve.images import ImageLimits

WIDTH, HEIGHT = 4000, 3000
SIZE = 299


def photo(width: int, height: int) -> bytes:
    """Make a JPEG of smooth noise with a grain, 4:2:0, as large as a camera's."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (31, 41, 3), dtype=np.uint8)
    smooth = resized(coarse, height, width)
    grain = rng.normal(0, 6, (height, width, 1)).astype(np.float32)
    pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    data: bytes = simplejpeg.encode_jpeg(pixels, quality=90, colorsubsampling="420")
    return data


def model_input(image: bytes) -> Any:
    """Run the backend's steps before the model."""
    return resized(decoded_image(image, ImageLimits(10**8)), SIZE, SIZE) * np.float32(1 / 255)


def milliseconds(call: Callable[[bytes], Any], image: bytes) -> float:
    """Return the time of one call."""
    start = time.perf_counter()
    call(image)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    image = photo(WIDTH, HEIGHT)
    model_input(image)
    pairs = [
        (milliseconds(simplejpeg.decode_jpeg, image), milliseconds(model_input, image))
        for _ in range(rounds)
    ]
    decode, pipeline = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{WIDTH}x{HEIGHT} JPEG of {len(image) / 1e6:.1f} MB, median of {rounds} rounds")
    print(f"bare decode      {decode:7.1f} ms")
    print(f"whole pipeline   {pipeline:7.1f} ms   {pipeline / decode:.3f} x the bare decode")


if __name__ == "__main__":
    main()
