"""The Python image pipeline on a 12-megapixel JPEG, beside the bare decode of the same file.

    python benchmarks/pipeline.py [--rounds 30]

All are timed in turns in one process: the decode by simplejpeg (libjpeg-turbo) alone; the decode as
a server does it, with every check of the file, of which the target is 1.05 times that; then decode,
resize to 299x299 and scale, as the onnxruntime backend does them before it runs the model; then the
same with `--crop 0.875 --antialias` and a mean and deviation, as torchvision evaluates. The times
are the CPU's, so that other work on the machine changes little.
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
from mlserve.image_pipeline.jpeg import accurate, padded
from mlserve.image_pipeline.prepare import prepare
from mlserve.images import ImageLimits
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.pixel_options import PixelOptions
from mlserve.server.codec.images import check_images, work_of
from mlserve.settings import ServerSettings
from mlserve.system import give_back_large_blocks
from mlserve.tensors import DType, Signature, TensorSpec

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


LIMITS = ImageLimits(10**8)
SIGNATURE = Signature("top_k", (TensorSpec("image", DType.BYTES, (None,)),), ())


def served_decode(image: bytes) -> Any:
    """Check and decode as a server does."""
    inputs = {"image": np.array([image], dtype=object)}
    check_images(SIGNATURE, inputs, ServerSettings())
    work_of(inputs)
    return decoded_image(image, LIMITS)


def model_input(image: bytes) -> Any:
    """Run the backend's steps before the model."""
    return resized(decoded_image(image, LIMITS), SIZE, SIZE) * np.float32(1 / 255)


AS_TORCHVISION = ImagePipeline(
    SIZE,
    SIZE,
    1 / 255,
    0.0,
    Activation.SOFTMAX,
    1000,
    preprocessing=PixelOptions(
        crop=0.875, antialias=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ).preprocessing((SIZE, SIZE), 3),
)


def torchvision_input(image: bytes) -> Any:
    """Run the steps of torchvision's evaluation."""
    pixels = np.empty((SIZE, SIZE, 3), np.float32)
    prepare(decoded_image(image, LIMITS, decoder=padded), AS_TORCHVISION, None, pixels)
    return pixels


def milliseconds(call: Callable[[bytes], Any], image: bytes) -> float:
    """Return the CPU time of one call."""
    start = time.thread_time()
    call(image)
    return (time.thread_time() - start) * 1e3


def main() -> None:
    """Print all times and their ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    image = photo(WIDTH, HEIGHT)
    give_back_large_blocks()  # as the server does
    calls = (accurate, served_decode, model_input, torchvision_input)
    for call in calls:
        call(image)
    times = [[milliseconds(call, image) for call in calls] for _ in range(rounds)]
    decode, *others = (statistics.median(each) for each in zip(*times, strict=True))
    print(f"{WIDTH}x{HEIGHT} JPEG of {len(image) / 1e6:.1f} MB, median of {rounds} rounds")
    print(f"bare decode       {decode:7.1f} ms")
    names = ("decode and checks", "whole pipeline", "as torchvision")
    for name, found in zip(names, others, strict=True):
        print(f"{name:<18}{found:7.1f} ms   {found / decode:.3f} x the bare decode")


if __name__ == "__main__":
    main()
