"""Small files that cost much: one verdict in both decoders, bounded memory, and an end in time."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded
from mlserve.image_pipeline.codec import Refused
from mlserve.image_pipeline.image_file import decoded_image
from mlserve.images import ImageLimits
from mlserve.testing.colours import PIPELINE

pytestmark = pytest.mark.server
FOLDER = Path(__file__).parents[2] / "benchmarks"
FILES = runpy.run_path(str(FOLDER / "attacks_images.py"))
ATTACKS: dict[str, Callable[[], bytes]] = FILES["ATTACKS"]
AT_THE_LIMIT = {
    "50 scans": lambda: FILES["jpeg_of_scans"](100, 100, 50),
    "51 scans": lambda: FILES["jpeg_of_scans"](100, 100, 51),
    "16 packed texts": lambda: FILES["png_of_texts"](16, 10),
    "17 packed texts": lambda: FILES["png_of_texts"](17, 10),
    "a side of 65,535": lambda: FILES["png_of_zeros"](65_535, 1),
    "a side of 65,536": lambda: FILES["png_of_zeros"](1, 65_536),
    "16-bit RGBA of 81 MP": lambda: FILES["png_of_zeros"](9000, 9000, 16, 6),
    "progressive RGB of 81 MP": lambda: FILES["jpeg_of_grey"](9000, 9000, components=3, frame=0xC2),
    "an unknown colour type": lambda: FILES["png_of_zeros"](6, 1).replace(
        b"\x08\0\0\0\0", b"\x08\x09\0\0\0", 1
    ),
    "a header without its kind": lambda: FILES["png_of_zeros"](1, 1)[:24],
}


@pytest.fixture(scope="module")
def in_graph() -> Callable[[bytes], str]:
    """The verdict of the exported graph's steps: a shape, or what is wrong."""
    from mlserve_tfserving.backend import import_tensorflow, quiet_logs

    quiet_logs()
    import_tensorflow()
    import tensorflow as tf
    from mlserve_tfserving.graph import decoded_image as steps
    from mlserve_tfserving.runner import found_in_graph

    shape = tf.function(
        lambda image: tf.shape(steps(tf.constant(0), image, PIPELINE)),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )

    def verdict(data: bytes) -> str:
        try:
            return str(shape(tf.constant(data)).numpy().tolist())
        except tf.errors.InvalidArgumentError as error:
            found = found_in_graph(str(error.message))
            return "damaged" if found is None else found[1].split(":")[0]

    return verdict


def in_python(data: bytes) -> str:
    """The verdict of the pipeline in Python."""
    try:
        return str(list(decoded_image(data, PIPELINE.limits).shape))
    except Refused as refused:
        return refused.text.split(":")[0]


@pytest.mark.parametrize("name", [*ATTACKS, *AT_THE_LIMIT])
def test_both_decoders_have_one_verdict(in_graph: Any, name: str) -> None:
    data = {**ATTACKS, **AT_THE_LIMIT}[name]()
    assert in_graph(data) == in_python(data)


@pytest.mark.parametrize(
    "data",
    [
        FILES["png_of_zeros"](10_000, 10_000, 8, 2),
        FILES["jpeg_of_scans"](10_000, 10_000, 50),
        FILES["jpeg_of_grey"](9000, 9000, components=4),
    ],
    ids=["PNG", "progressive JPEG", "CMYK JPEG"],
)
def test_the_decoder_stops_at_the_deadline(data: bytes) -> None:
    """Each takes a second and more."""
    with pytest.raises(DeadlineExceeded, match="decoding an image"):
        decoded_image(data, ImageLimits(), deadline=Deadline.after(0.05))


_PEAK = """
import resource, runpy, sys
from mlserve.image_pipeline.image_file import decoded_image
from mlserve.images import ImageLimits
data = runpy.run_path(sys.argv[1])["png_of_zeros"](10_000, 10_000, 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert decoded_image(data, ImageLimits()).shape == (10_000, 10_000, 3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is KiB on Linux only")
def test_a_one_bit_png_takes_little_more_than_its_pixels() -> None:
    """It took 1.1 GB for the 300 MB that come out."""
    argv = [sys.executable, "-c", _PEAK, FOLDER / "attacks_images.py"]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=True, timeout=120, env=os.environ
    )
    assert int(done.stdout) < 600
