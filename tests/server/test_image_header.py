"""The size of an image from its header, whatever the bytes are."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlserve.errors import InputTooLarge, NotAnImage
from mlserve.server.image_header import check_images, size_of
from mlserve.settings import ServerSettings
from mlserve.tensors import DType, Signature, TensorSpec


def at_most(pixels: int) -> ServerSettings:
    return ServerSettings(max_pixels=pixels)


IMAGES = Signature("s", (TensorSpec("image", DType.BYTES, (None,)),), ())


def image_file(kind: str, width: int = 31, height: int = 17, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, kind, **options)
    return out.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header is all there is of it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
    )


def jpeg_of(width: int, height: int, *before: bytes, frame: int = 0xC0) -> bytes:
    size = struct.pack(">BBHBHH", 0xFF, frame, 11, 8, height, width)
    return b"\xff\xd8" + b"".join(before) + size


def images(*items: bytes) -> dict[str, Any]:
    return {"image": np.array([*items, None], dtype=object)[:-1]}


APP = b"\xff\xe1" + struct.pack(">H", 65535) + bytes(65533)


@pytest.mark.parametrize(
    "data",
    [
        image_file("PNG"),
        image_file("JPEG"),
        image_file("JPEG", progressive=True),
        image_file("JPEG", exif=b"Exif\0\0" + bytes(60000), icc_profile=bytes(300_000)),
        jpeg_of(31, 17, frame=0xC9),
        jpeg_of(31, 17, b"\xff\xff\xff\xff"),
        jpeg_of(31, 17, APP, b"garbage before a marker\xff\x00"),
        jpeg_of(31, 17, b"\xff\xd0\xff\x01"),
        jpeg_of(31, 17, b"\xff\xe0\x00\x00"),
        jpeg_of(31, 17, b"\xff\xc4\x00\x04\xff\xc0"),
        jpeg_of(31, 17, *[APP] * 40),
    ],
)
def test_the_size_is_found(data: bytes) -> None:
    for text in (
        data,
        base64.b64encode(data),
        base64.urlsafe_b64encode(data).rstrip(b"="),
        b" \n" + base64.encodebytes(data),
    ):
        assert size_of(text) == (31, 17)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xda\x00\x02" + jpeg_of(9, 9)[2:],
        b"\x89PNG\r\n\x1a\n",
        png_of(5, 5)[:20],
        jpeg_of(5, 5)[:-1],
        b"iVBORw0KGgo",
        b"/9j/",
        b"/9j/\xff\xfe",
        "\N{HORSE}".encode(),
    ],
)
def test_no_size_is_none(data: bytes) -> None:
    assert size_of(data) is None
    check_images(IMAGES, images(data), at_most(1))


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"/9j/", b"iVBORw0KGgo"):
        try:
            size = size_of(start + data)
        except ValueError:
            assert b"PNG" in start
            continue
        assert size is None or min(size) >= 0


def test_a_damaged_file() -> None:
    sound, chance = bytearray(image_file("JPEG", exif=b"Exif\0\0" + bytes(50))), random.Random(1)
    for _ in range(500):
        data = bytearray(sound)
        for _ in range(3):
            data[chance.randrange(2, len(data))] = chance.randrange(256)
        size_of(bytes(data[: chance.randrange(len(data))]))


def test_the_images_of_a_request_have_a_limit_together() -> None:
    """Also over several inputs, and for one that is repeated."""
    settings = ServerSettings(max_pixels=100, max_request_pixels=300)
    one, other = (TensorSpec(name, DType.BYTES, (None,)) for name in ("a", "b"))
    two = Signature("s", (one, other), ())
    image = png_of(10, 10)
    check_images(two, {"a": images(image, image)["image"], "b": images(image)["image"]}, settings)
    with pytest.raises(InputTooLarge) as refused:
        check_images(
            two, {"a": images(*[image] * 3)["image"], "b": images(image)["image"]}, settings
        )
    assert refused.value.message == (
        "the images of the request have more than 300 pixels together, which is the "
        "--max-request-pixels of this server"
    )
    with pytest.raises(InputTooLarge, match="together"):
        check_images(IMAGES, {"image": np.repeat(images(image)["image"], 2**20)}, settings)


def test_one_image_may_have_as_many_pixels_as_it_is_allowed() -> None:
    settings = ServerSettings(max_pixels=1000, max_request_pixels=1)
    check_images(IMAGES, images(png_of(100, 10)), settings)


def test_too_many_pixels_name_the_image_the_size_and_the_flag() -> None:
    with pytest.raises(InputTooLarge) as refused:
        check_images(IMAGES, images(image_file("PNG"), png_of(50000, 40000)), at_most(1000))
    assert refused.value.message == (
        "image 1 of 2 is too large (50000x40000, at most 1000 pixels), which is the "
        "--max-pixels of this server"
    )


def test_as_many_pixels_as_allowed_are_fine() -> None:
    check_images(IMAGES, images(png_of(100, 10), jpeg_of(10, 100)), at_most(1000))
    with pytest.raises(InputTooLarge):
        check_images(IMAGES, images(base64.b64encode(jpeg_of(10, 101))), at_most(1000))


@pytest.mark.parametrize("size", [(2**31, 1), (1, 2**32 - 1)])
def test_a_png_of_negative_size_has_none(size: tuple[int, int]) -> None:
    with pytest.raises(NotAnImage, match="no valid size"):
        check_images(IMAGES, images(png_of(*size)), at_most(1000))


def test_a_jpeg_that_hides_its_size_is_refused() -> None:
    """Millions of empty segments must not be millions of steps here."""
    with pytest.raises(NotAnImage):
        check_images(IMAGES, images(jpeg_of(1, 1, b"\xff\xe0\x00\x02" * 10_000_000)), at_most(1000))


def test_other_tensors_are_not_looked_at() -> None:
    signature = Signature("s", (TensorSpec("x", DType.FLOAT32, None),), ())
    check_images(signature, {"x": np.zeros(3, np.float32)}, at_most(1))
