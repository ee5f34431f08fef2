"""The Python pipeline beside TensorFlow's own operations: decoding and resizing, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve.image_pipeline.codec import Refused
from mlserve.image_pipeline.float_resizing import float_resized, resized
from mlserve.image_pipeline.image_file import decoded_image
from mlserve.image_pipeline.jpeg import lacks_scans
from mlserve.images import ImageLimits
from mlserve.preprocessing import Geometry, Interpolation, Span
from mlserve.testing.images import noise, saved

pytestmark = pytest.mark.tensorflow
ALTERED = 150
JPEGS = [
    (mode, options)
    for mode in (1, 3, 4)
    for options in (
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"subsampling": 1},
        {"quality": 10},
        {"quality": 100, "optimize": True},
        {"restart_marker_rows": 1},
    )
]


def by_tensorflow(data: bytes) -> Any:
    import tensorflow as tf

    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()


def taken(decode: Any, data: bytes) -> Any:
    """The pixels, or None for a file that is refused."""
    import tensorflow as tf

    try:
        return decode(data)
    except (Refused, tf.errors.InvalidArgumentError):
        return None


def ours(data: bytes) -> Any:
    return decoded_image(data, ImageLimits(10**8))


@pytest.mark.parametrize(("bands", "options"), JPEGS)
def test_a_jpeg_whole_or_damaged_is_what_tensorflow_makes_of_it(
    bands: int, options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(bands)
    whole = saved(noise(75, 49, bands), "JPEG", **options)
    np.testing.assert_array_equal(ours(whole), by_tensorflow(whole))
    for data in (*cut(whole, rng), *altered(whole, rng)):
        mine, theirs = taken(ours, data), taken(by_tensorflow, data)
        if mine is None:
            # Without all scans each libjpeg makes other pixels, so that such a file is refused.
            assert theirs is None or lacks_scans(data)
        else:
            np.testing.assert_array_equal(mine, theirs)


def cut(whole: bytes, rng: Any) -> list[bytes]:
    """The file without its last bytes: 1 to 8 of them, and any number."""
    ends = [*range(1, 9), *rng.integers(9, len(whole) - 3, 20)]
    return [whole[:-end] for end in ends]


def altered(whole: bytes, rng: Any) -> list[bytes]:
    """The file with one to three bytes changed, now and then to the start of a marker."""
    files = []
    for _ in range(ALTERED):
        data = bytearray(whole)
        for position in rng.integers(3, len(data), rng.integers(1, 4)):
            data[position] = rng.choice([0xFF, rng.integers(0, 256)])
        files.append(bytes(data))
    return files


@pytest.mark.parametrize(
    "size", [(1, 1), (7, 5), (224, 299), (224, 1), (1, 299), (640, 480), (1201, 3), (3, 2000)]
)
def test_resizing_is_that_of_tensorflow(size: tuple[int, int]) -> None:
    import tensorflow as tf

    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = tf.raw_ops.ResizeBilinear(
        images=image[np.newaxis], size=[224, 299], half_pixel_centers=True
    )
    np.testing.assert_array_equal(resized(image, 224, 299), theirs[0])


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "size", [(1, 1), (7, 5), (64, 96), (64, 1), (1, 96), (640, 480), (1201, 3), (3, 2000)]
)
def test_every_part_of_either_interpolation_is_tensorflows(
    kind: str, size: tuple[int, int]
) -> None:
    import tensorflow as tf

    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = tf.image.resize(image, (64, 96), method=kind).numpy()
    geometry = Geometry(64, 96, Span(0, 64, 0), Span(0, 96, 0))
    whole = float_resized(image, geometry, Interpolation(kind))
    part = geometry._replace(rows=Span(5, 50, 0), columns=Span(17, 60, 0))
    np.testing.assert_array_equal(whole, theirs)
    cut = float_resized(image, part, Interpolation(kind))
    np.testing.assert_array_equal(cut, theirs[5:55, 17:77])


def test_an_extreme_shape_takes_no_more_memory_than_the_result() -> None:
    wide = np.zeros((1, 20_000_000, 3), dtype=np.uint8)
    assert resized(wide, 299, 299).shape == (299, 299, 3)
