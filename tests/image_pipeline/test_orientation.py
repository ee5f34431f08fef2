"""Images that a camera wrote down turned: upright as Pillow makes them, or left as they are."""

from __future__ import annotations

import base64
import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from mlserve.image_pipeline.image_file import decoded_image
from mlserve.images import ImageLimits
from mlserve.pipeline import Exif
from mlserve.testing.images import noise, saved, turned, with_png_chunk

KINDS = ("JPEG", "PNG")

LIMITS = ImageLimits(10**6)


def by_pillow(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_applied_as_pillow_applies_it(kind: str, orientation: int) -> None:
    data = saved(noise(37, 23), kind, exif=turned(orientation))

    upright = decoded_image(data, LIMITS, Exif.APPLY)

    np.testing.assert_array_equal(upright, by_pillow(data))
    assert upright.shape[:2] == ((37, 23) if orientation > 4 else (23, 37))
    assert decoded_image(data, LIMITS).shape[:2] == (23, 37)
    assert decoded_image(base64.b64encode(data), LIMITS, Exif.APPLY).shape == upright.shape


@pytest.mark.parametrize(
    "tiff",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        struct.pack(">4sIHHHIHH", b"MM\0*", 8, 1, 0x0112, 3, 1, 9, 0),
        struct.pack(">4sIHHHII", b"MM\0*", 8, 1, 0x0112, 4, 1, 6),
        struct.pack("<4sIH", b"II*\0", 8, 65535),
    ],
    ids=["empty", "cut", "far", "orientation 9", "another type", "without its entries"],
)
def test_exif_data_that_cannot_be_read_turn_nothing(tiff: bytes) -> None:
    png = saved(noise(7, 5), "PNG")

    pixels = decoded_image(with_png_chunk(png, b"eXIf", tiff), LIMITS, Exif.APPLY)

    np.testing.assert_array_equal(pixels, decoded_image(png, LIMITS))


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_both_byte_orders_are_read(byte_order: str) -> None:
    start = b"II*\0" if byte_order == "<" else b"MM\0*"
    tiff = struct.pack(byte_order + "4sIHHHIHHI", start, 8, 1, 0x0112, 3, 1, 6, 0, 0)
    png = saved(noise(7, 5), "PNG")

    assert decoded_image(with_png_chunk(png, b"eXIf", tiff), LIMITS, Exif.APPLY).shape == (7, 5, 3)
