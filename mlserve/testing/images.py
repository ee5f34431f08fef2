"""Image files, good, odd and bad: how they are made, and the expected verdict on each.

    ODD   unusual, but answered: the file, and the pixels it decodes to
    BAD   refused: the file, the error's kind, and a part of its message

The verdicts are TensorFlow's, whose decoder runs inside the exported graph; a backend that decodes
elsewhere must give the same. The pixels come from Pillow, as an independent decoder.
"""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray[Any, Any]
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_AFTER_PNG_HEADER = 33
_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""The colour type in a PNG header, by the samples per pixel."""
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
_LAST_PASS = (1, 0, 2, 1)
"""The passes of an interlaced PNG: first row, first column, row step, column step."""
_ORIENTATION = 0x0112
_TRANSFORM_AT = 15
"""The position in the Adobe segment of the colour transform."""
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Encode the image in that Pillow format."""
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def plain(colour: str, kind: str = "JPEG", size: tuple[int, int] = (20, 12)) -> bytes:
    """Encode an image of one colour; `size` is its width and height."""
    return saved(Image.new("RGB", size, colour), kind)


def noise(width: int, height: int, bands: int = 3, seed: int = 0) -> Image.Image:
    """Make smooth noise, grey, RGB or CMYK, which JPEG roughly preserves."""
    numbers = np.random.default_rng(seed).integers(0, 256, (7, 7, bands), dtype=np.uint8)
    image = Image.frombytes(_MODES[bands], (7, 7), numbers.tobytes())
    return image.resize((width, height), Image.Resampling.BILINEAR)


def turned(orientation: int) -> Image.Exif:
    """Return EXIF data with that orientation."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif


def ycck(cmyk: bytes) -> bytes:
    """Return the CMYK JPEG with an Adobe marker that says YCCK."""
    transform = cmyk.index(b"\xff\xee") + _TRANSFORM_AT
    return cmyk[:transform] + b"\x02" + cmyk[transform + 1 :]


def with_precision(jpeg: bytes, bits: int) -> bytes:
    """Return the JPEG with a frame header that claims samples of that many bits."""
    position = jpeg.index(b"\xff\xc0") + 4
    return jpeg[:position] + bytes([bits]) + jpeg[position + 1 :]


def altered(data: bytes, position: int, length: int = 8) -> bytes:
    """Return the file with `length` bytes changed, from `position` on."""
    changed = bytes(byte ^ 0x55 for byte in data[position : position + length])
    return data[:position] + changed + data[position + length :]


def jpeg_claiming(width: int, height: int) -> bytes:
    """Return a small JPEG whose frame header claims that size."""
    data = bytearray(plain("red"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def without_segment(jpeg: bytes, marker: int) -> bytes:
    """Return the JPEG without its first segment of that marker."""
    start = jpeg.index(bytes([0xFF, marker]))
    (length,) = struct.unpack(">H", jpeg[start + 2 : start + 4])
    return jpeg[:start] + jpeg[start + 2 + length :]


def with_jpeg_marker(jpeg: bytes, old: int, new: int) -> bytes:
    """Return the JPEG with the marker of its first `old` segment changed to `new`."""
    return jpeg.replace(bytes([0xFF, old]), bytes([0xFF, new]), 1)


def with_png_chunk(png: bytes, kind: bytes, content: bytes, *, is_damaged: bool = False) -> bytes:
    """Insert a PNG chunk after the header; a damaged one has a wrong checksum."""
    chunk = png_chunk(kind, content)
    if is_damaged:
        chunk = altered(chunk, len(chunk) - 1, 1)
    return png[:_AFTER_PNG_HEADER] + chunk + png[_AFTER_PNG_HEADER:]


def png_claiming(width: int, height: int) -> bytes:
    """Return a nearly empty PNG whose header claims that size."""
    return _png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"\0" * 10)


def png_of(pixels: Pixels, *, is_interlaced: bool = False) -> bytes:
    """Encode uint8 or uint16[height, width, samples] as PNG.

    Pillow writes neither interlaced files nor 16-bit colour.
    """
    height, width, samples = pixels.shape
    bits = pixels.dtype.itemsize * 8
    header = struct.pack(
        ">IIBBBBB", width, height, bits, _PNG_COLOUR_TYPES[samples], 0, 0, is_interlaced
    )
    passes = (*_ADAM7, _LAST_PASS) if is_interlaced else ((0, 0, 1, 1),)
    rows = (
        row
        for first_row, first_column, row_step, column_step in passes
        for row in pixels[first_row::row_step, first_column::column_step]
        if row.size
    )
    big_endian = pixels.dtype.newbyteorder(">")
    return _png(header, b"".join(b"\0" + row.astype(big_endian).tobytes() for row in rows))


def _png(header: bytes, data: bytes) -> bytes:
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return _PNG_MAGIC + b"".join(png_chunk(kind, content) for kind, content in chunks)


def png_short_of_rows() -> bytes:
    """Return a PNG of 64 rows with data for 16; all its chunks are valid."""
    header = struct.pack(">IIBBBBB", 20, 64, 8, 2, 0, 0, 0)
    return _png(header, (b"\0" + bytes(60)) * 16)


def png_with_chunk_in_data() -> bytes:
    """Return a PNG with a text chunk between the two halves of its data."""
    png = png_of(np.zeros((9, 9, 3), np.uint8))
    start, end = png.index(b"IDAT") - 4, png.index(b"IEND") - 4
    data = png[start + 8 : end - 4]
    parts = ((b"IDAT", data[:9]), (b"tEXt", b"a\0b"), (b"IDAT", data[9:]))
    return png[:start] + b"".join(png_chunk(*part) for part in parts) + png[end:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk with its length and its checksum."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


@dataclass(frozen=True)
class AnsweredImage:
    """An image file that has an answer: `pixels` is uint8[height, width, 3], RGB."""

    data: bytes
    pixels: Pixels


@dataclass(frozen=True)
class RefusedImage:
    """A file refused with an error of that `kind`, whose message contains `part`."""

    data: bytes
    kind: str
    part: str


def decoded(data: bytes) -> Pixels:
    """Decode a file with Pillow to uint8[height, width, 3], dropping alpha."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode == "CMYK":
            return _rgb_of(np.asarray(image), is_turned_round="adobe" in image.info)
        return np.asarray(image.convert("RGB"))


def _rgb_of(cmyk: Pixels, *, is_turned_round: bool) -> Pixels:
    """Convert CMYK as TensorFlow does, rounding down.

    Pillow rounds differently, and inverts the values of a file with an Adobe marker.
    """
    stored = (255 - cmyk if is_turned_round else cmyk).astype(np.uint16)
    return (stored[:, :, :3] * stored[:, :, 3:] // 255).astype(np.uint8)


def _jpegs() -> dict[str, bytes]:
    picture = noise(37, 23)
    jpeg, cmyk = saved(picture), saved(noise(37, 23, 4))
    return {
        "JPEG": jpeg,
        "JPEG 4:4:4": saved(picture, subsampling=0),
        "JPEG 4:2:2": saved(picture, subsampling=1),
        "JPEG of quality 10": saved(picture, quality=10),
        "JPEG of quality 100": saved(picture, quality=100),
        "progressive JPEG": saved(picture, progressive=True),
        "progressive grey JPEG": saved(picture.convert("L"), progressive=True),
        "grey JPEG": saved(picture.convert("L")),
        "CMYK JPEG": cmyk,
        "CMYK JPEG without Adobe marker": without_segment(cmyk, 0xEE),
        "YCCK JPEG": ycck(cmyk),
        "RGB JPEG": saved(picture, keep_rgb=True),
        "JPEG with restart markers": saved(picture, restart_marker_blocks=2),
        "JPEG without JFIF marker": without_segment(jpeg, 0xE0),
        "EXIF-rotated JPEG": saved(picture, exif=turned(6)),
        "bytes after the end of a JPEG": jpeg + b"trailing",
        "1x1 JPEG": saved(noise(1, 1)),
        "JPEG of one row": saved(noise(300, 1)),
        "JPEG of one column": saved(noise(1, 300)),
    }


def _altered_jpegs() -> dict[str, bytes]:
    """Return JPEG files with faults inside their data that a decoder recovers from."""
    jpeg = saved(noise(150, 100))
    middle = len(jpeg) // 2
    return {
        "JPEG with altered data": altered(jpeg, middle),
        "JPEG with altered data near its end": altered(jpeg, len(jpeg) * 4 // 5),
        "JPEG with zeros in its data": jpeg[:middle] + bytes(20) + jpeg[middle:],
        "JPEG with an end in its middle": jpeg[:middle] + b"\xff\xd9" + jpeg[middle:],
        "JPEG that claims more rows than it has": jpeg_claiming(20, 40),
        "JPEG that claims fewer rows than it has": jpeg_claiming(20, 8),
    }


def _pngs() -> dict[str, bytes]:
    picture = noise(37, 23)
    clear = Image.fromarray(np.dstack([np.asarray(picture), np.asarray(noise(37, 23, 1, 1))]))
    grey_clear = Image.merge("LA", [picture.convert("L"), noise(37, 23, 1, 1)])
    png = saved(picture, "PNG")
    return {
        "PNG": png,
        "1x1 PNG": saved(noise(1, 1), "PNG"),
        "PNG with alpha, which is dropped": saved(clear, "PNG"),
        "PNG, grey with alpha": saved(grey_clear, "PNG"),
        "PNG, grey": saved(picture.convert("L"), "PNG"),
        "PNG, 1 bit": saved(picture.convert("1"), "PNG"),
        "PNG, 2-bit palette": saved(picture.quantize(4), "PNG", bits=2),
        "PNG, palette": saved(picture.quantize(50), "PNG"),
        "PNG, palette with a clear colour": saved(picture.quantize(50), "PNG", transparency=3),
        "PNG with a clear colour": saved(picture, "PNG", transparency=(1, 2, 3)),
        "PNG, interlaced": png_of(np.asarray(picture), is_interlaced=True),
        "bytes after the end of a PNG": png + b"trailing",
        "PNG with an EXIF turn": saved(picture, "PNG", exif=turned(6)),
        "animated PNG": saved(picture, "PNG", save_all=True, append_images=[noise(37, 23, seed=2)]),
    }


def _pngs_with_more() -> dict[str, AnsweredImage]:
    """Return PNG files with chunks besides the image, possibly damaged: only the image matters."""
    picture = noise(37, 23)
    png = saved(picture, "PNG")
    files = {
        "PNG with a damaged text": with_png_chunk(png, b"tEXt", b"a\0b", is_damaged=True),
        "PNG with a gamma": with_png_chunk(png, b"gAMA", (45455).to_bytes(4, "big")),
        "PNG with a gamma cut short": with_png_chunk(png, b"gAMA", b"x"),
        "PNG with a clear colour cut short": with_png_chunk(png, b"tRNS", b"x"),
        "PNG with a colour profile that is none": with_png_chunk(png, b"iCCP", b"a\0\0none"),
        "PNG with something unknown": with_png_chunk(png, b"abCD", b"x"),
    }
    return {name: AnsweredImage(data, np.asarray(picture)) for name, data in files.items()}


def _deep_pngs() -> dict[str, AnsweredImage]:
    """Return 16-bit PNG files, of which the upper 8 bits are used."""
    numbers = np.random.default_rng(3).integers(0, 2**16, (23, 37, 4)).astype(np.uint16)
    upper = (numbers >> 8).astype(np.uint8)
    grey = np.repeat(upper[:, :, :1], 3, axis=2)
    return {
        "16-bit PNG": AnsweredImage(png_of(numbers[:, :, :3]), upper[:, :, :3]),
        "16-bit PNG with alpha": AnsweredImage(png_of(numbers), upper[:, :, :3]),
        "16-bit PNG, grey": AnsweredImage(png_of(numbers[:, :, :1]), grey),
        "16-bit PNG, grey with alpha": AnsweredImage(png_of(numbers[:, :, :2]), grey),
    }


def _texts() -> dict[str, AnsweredImage]:
    """Return base64 texts of images, in the forms that clients send."""
    jpeg, png = saved(noise(37, 23)), saved(noise(9, 7, seed=4), "PNG")
    text, web_safe = base64.b64encode(jpeg), base64.urlsafe_b64encode(jpeg)
    lines = [text[i : i + 76] for i in range(0, len(text), 76)]
    forms = {
        "base64": text,
        "base64 without padding": text.rstrip(b"="),
        "base64 in lines": b"\r\n".join(lines),
        "base64 with spaces around": b" \n" + text + b"\n\t",
        "web-safe base64": web_safe,
        "web-safe base64 without padding": web_safe.rstrip(b"="),
        "both alphabets in one": text[:200] + web_safe[200:],
    }
    answers = {name: AnsweredImage(form, decoded(jpeg)) for name, form in forms.items()}
    answers["base64 of a PNG"] = AnsweredImage(base64.b64encode(png), decoded(png))
    return answers


def odd_images() -> dict[str, AnsweredImage]:
    """Return unusual image files that have an answer, by name."""
    plain_files = _jpegs() | _altered_jpegs() | _pngs()
    files = {name: AnsweredImage(data, decoded(data)) for name, data in plain_files.items()}
    return {**files, **_pngs_with_more(), **_deep_pngs(), **_texts()}


_NO_IMAGE = "not a JPEG or PNG file"
_DAMAGED = "cut short or altered"
_NO_SIZE = "no valid size"
_TOO_LARGE = "too large (20000x20000, at most 100000000 pixels)"


def _no_images() -> dict[str, bytes]:
    """Return files of other kinds: each is refused as neither JPEG nor PNG."""
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    gif = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    return {
        "text": b"hello, world\n",
        "text that is base64": b"aGVsbG8=",
        "binary": bytes(range(256)),
        "two bytes of JPEG": plain("red")[:2],
        "something before a JPEG": b"\0" + plain("red"),
        "GIF": saved(frames[0], "GIF"),
        "animated GIF": gif,
        "base64 of a GIF": base64.b64encode(gif),
        "BMP": saved(frames[0], "BMP"),
        "WebP": saved(frames[0], "WEBP"),
        "TIFF": saved(frames[0], "TIFF"),
    }


def _damaged() -> dict[str, bytes]:
    """Return JPEG and PNG files that cannot be decoded to their end."""
    jpeg, png = saved(noise(150, 100)), saved(noise(150, 100), "PNG")
    progressive = saved(noise(150, 100), progressive=True)
    return {
        "three bytes of JPEG": jpeg[:3],
        "JPEG cut in its header": jpeg[:100],
        "JPEG cut in the middle": jpeg[: len(jpeg) // 2],
        "JPEG cut in its data": jpeg[:-20],
        "JPEG without its end": jpeg[:-2],
        "JPEG without its last byte": jpeg[:-1],
        "JPEG without its tables": without_segment(jpeg, 0xDB),
        "JPEG of no rows": jpeg_claiming(20, 0),
        "JPEG of 12 bits": with_precision(jpeg, 12),
        "JPEG of the lossless kind": with_jpeg_marker(jpeg, 0xC0, 0xC3),
        "progressive JPEG cut in the middle": progressive[: len(progressive) // 2],
        "PNG cut in the middle": png[: len(png) // 2],
        "PNG cut in its data": png[:-20],
        "PNG without its end": png[:-12],
        "PNG with a wrong checksum": altered(png, len(png) - 16, 1),
        "PNG with a wrong checksum of its header": altered(png, 29, 1),
        "PNG with an unknown part of its image": with_png_chunk(png, b"ABCD", b"x"),
        "PNG with two headers": with_png_chunk(png, b"IHDR", png[16:29]),
        "PNG with altered data": altered(png, len(png) // 2),
        "PNG with fewer rows than it announces": png_short_of_rows(),
        "PNG with a chunk between its data": png_with_chunk_in_data(),
        "PNG with an empty palette": with_png_chunk(png, b"PLTE", b""),
        "base64 cut short": base64.b64encode(jpeg)[: len(jpeg) // 4 * 4],
    }


def bad_images() -> dict[str, RefusedImage]:
    """Return files that are refused, by name."""
    png, text = plain("red", "PNG"), base64.b64encode(plain("red"))
    base64_faults = {
        "base64 with a wrong character": text[:40] + b"!" + text[41:],
        "base64 of a wrong length": text[:61],
        "base64 with wrong padding": text.rstrip(b"=") + b"===",
    }
    no_size = {
        "PNG cut in its header": png[:20],
        "PNG of no width": png_claiming(0, 5),
        "PNG of negative width": png_claiming(2**31 + 5, 5),
        "PNG of negative width and height": png_claiming(2**32 - 5, 2**32 - 5),
        "PNG with something in front of its header": png[:8]
        + png_chunk(b"gAMA", b"abcd")
        + png[8:],
    }
    of_apple = {"PNG of an iPhone": png[:8] + png_chunk(b"CgBI", b"P\0 \2") + png[8:]}
    too_large = {
        "PNG of 20000x20000": png_claiming(20000, 20000),
        "JPEG of 20000x20000": jpeg_claiming(20000, 20000),
    }
    return {
        "zero bytes": RefusedImage(b"", "not_an_image", "empty: no bytes at all"),
        **_all_refused(_no_images(), "not_an_image", _NO_IMAGE),
        **_all_refused(_damaged(), "not_an_image", _DAMAGED),
        **_all_refused(no_size, "not_an_image", _NO_SIZE),
        **_all_refused(of_apple, "not_an_image", "not a PNG that can be read: CgBI"),
        **_all_refused(too_large, "input_too_large", _TOO_LARGE),
        **_all_refused(base64_faults, "invalid_input", "base64"),
    }


def _all_refused(files: Mapping[str, bytes], kind: str, part: str) -> dict[str, RefusedImage]:
    return {name: RefusedImage(data, kind, part) for name, data in files.items()}


ODD: Mapping[str, AnsweredImage] = odd_images()
BAD: Mapping[str, RefusedImage] = bad_images()
