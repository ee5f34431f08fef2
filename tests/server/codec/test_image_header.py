"""The size of an image from its header, whatever the bytes are."""

from __future__ import annotations

import base64
import io
import random
import runpy
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlserve.errors import InputTooLarge, NotAnImage
from mlserve.server.codec.images import check_images, cost_of, work_of
from mlserve.settings import ServerSettings
from mlserve.tensors import DType, Signature, TensorSpec

IMAGES = Signature("s", (TensorSpec("image", DType.BYTES, (None,)),), ())
LIMITED = ServerSettings(max_pixels=1000)


FILES = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "attacks_images.py"))


def attack_file(kind: str, *arguments: Any, **options: Any) -> bytes:
    """What that function of `benchmarks/attacks_images.py` makes."""
    data: bytes = FILES[kind](*arguments, **options)
    return data


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


def size_of(data: bytes) -> tuple[int, int] | None:
    cost = cost_of(data)
    return None if cost is None else (cost.width, cost.height)


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
    check_images(IMAGES, images(data), ServerSettings(max_pixels=1))


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
        check_images(IMAGES, images(image_file("PNG"), png_of(50000, 40000)), LIMITED)
    assert refused.value.message == (
        "image 1 of 2 is too large (50000x40000, at most 1000 pixels), which is the "
        "--max-pixels of this server"
    )


def test_as_many_pixels_as_allowed_are_fine() -> None:
    check_images(IMAGES, images(png_of(100, 10), jpeg_of(10, 100)), LIMITED)
    with pytest.raises(InputTooLarge):
        check_images(IMAGES, images(base64.b64encode(jpeg_of(10, 101))), LIMITED)


@pytest.mark.parametrize("size", [(2**31, 1), (1, 2**32 - 1)])
def test_a_png_of_negative_size_has_none(size: tuple[int, int]) -> None:
    with pytest.raises(NotAnImage, match="no valid size"):
        check_images(IMAGES, images(png_of(*size)), LIMITED)


def test_a_jpeg_that_hides_its_size_is_refused() -> None:
    """Millions of empty segments must not be millions of steps here."""
    with pytest.raises(NotAnImage):
        check_images(
            IMAGES,
            images(jpeg_of(1, 1, b"\xff\xe0\x00\x02" * 10_000_000)),
            LIMITED,
        )


def test_other_tensors_are_not_looked_at() -> None:
    signature = Signature("s", (TensorSpec("x", DType.FLOAT32, None),), ())
    check_images(signature, {"x": np.zeros(3, np.float32)}, ServerSettings(max_pixels=1))


LIMITS = ServerSettings(
    max_pixels=1000, max_request_pixels=2500, max_side=200, max_scans=10, max_decode_bytes=6000
)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("side", png_of(201, 1), "too large (201x1, at most 200 pixels on each side)"),
        (
            "scans",
            attack_file("jpeg_of_scans", 9, 9, 11),
            "too costly to decode (more than 10 scans)",
        ),
        (
            "decode_bytes",
            attack_file("jpeg_of_grey", 30, 30, components=3, frame=0xC2),
            "too costly to decode (8100 bytes, at most 6000)",
        ),
        (
            "decode_bytes",
            attack_file("png_of_zeros", 30, 30, 16, 6),
            "too costly to decode (9900 bytes, at most 6000)",
        ),
    ],
)
def test_what_is_costly_to_decode_names_the_limit_and_its_flag(
    name: str, data: bytes, message: str
) -> None:
    for sent in (data, base64.b64encode(data)):
        with pytest.raises(InputTooLarge) as refused:
            check_images(IMAGES, images(sent), LIMITS)
        flag = f"--max-{name.replace('_', '-')}"
        assert (
            refused.value.message == f"the image is {message}, which is the {flag} of this server"
        )


def test_packed_texts_of_a_png_are_counted() -> None:
    """Each is 8 MB of unpacking to libpng, for 7 kB."""
    fine, bomb = (attack_file("png_of_texts", count, 100) for count in (16, 17))
    check_images(IMAGES, images(fine), LIMITS)
    with pytest.raises(InputTooLarge, match=r"too costly to decode \(more than 16 packed texts\)$"):
        check_images(IMAGES, images(bomb), LIMITS)


def test_an_image_that_is_repeated_by_shape_is_looked_at_once() -> None:
    """Each look goes through 2 MB: 100,000 of them would outlast the test."""
    data = attack_file("jpeg_of_scans", 9, 9, 400) + b"\xff" * 2_000_000
    many = np.broadcast_to(np.array(data, object), (100_000,))
    check_images(IMAGES, {"image": many}, ServerSettings(max_scans=400))


@pytest.mark.parametrize(
    ("width", "height", "options"),
    [
        (4032, 3024, {"components": 3}),  # a phone's photo
        (10_000, 10_000, {"components": 3}),  # a scan
        (8000, 6000, {"components": 3, "frame": 0xC2}),
    ],
)
def test_large_photos_are_within_the_limits(
    width: int, height: int, options: dict[str, int]
) -> None:
    data = attack_file("jpeg_of_grey", width, height, **options)
    check_images(IMAGES, images(data), ServerSettings())


def test_usual_kinds_of_files_are_within_the_limits() -> None:
    for scans in (6, 10, 20, 25):
        check_images(
            IMAGES, images(attack_file("jpeg_of_scans", 3000, 2000, scans)), ServerSettings()
        )
    for depth, colour in ((16, 0), (16, 2), (16, 6)):
        data = attack_file("png_of_zeros", 4000, 3000, depth, colour)
        check_images(IMAGES, images(data), ServerSettings())


def test_restarts_between_the_scans_are_no_segments() -> None:
    data = attack_file("jpeg_of_scans", 9, 9, 2)
    first = data.index(b"\xff\xda") + 10
    many = data[:first] + b"\xff\xd0" * 10_000 + data[first:]
    assert size_of(many) == (9, 9)


def test_more_is_told_of_work_where_there_is_more() -> None:
    small, large = png_of(100, 100), png_of(9000, 9000)
    scans = attack_file("jpeg_of_scans", 1000, 1000, 50)
    once = attack_file("jpeg_of_grey", 1000, 1000)
    assert work_of(images(large)) > 100 * work_of(images(small)) > 0
    assert work_of(images(scans)) > 20 * work_of(images(once))
    assert work_of(images(b"no image")) == work_of({"x": np.zeros(3, np.float32)}) == 0
