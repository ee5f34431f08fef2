"""Image files that two pipelines have to agree on: real and synthetic, of every kind that is taken.

The same files each time: noise is seeded. They are made of examples/horse.jpg and of numbers.

    python benchmarks/parity_images.py FOLDER
"""

from __future__ import annotations

import argparse
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

HORSE = Path(__file__).parents[1] / "examples" / "horse.jpg"
_SEED = 20240501
_SUBSAMPLING = {"444": 0, "422": 1, "420": 2}
Save = Callable[[Path], None]


def write_images(folder: Path) -> list[str]:
    """Write every image into the folder; return their names, sorted."""
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(HORSE) as opened:
        horse = opened.convert("RGB")
    (folder / "real-original.jpg").write_bytes(HORSE.read_bytes())
    for name, save in (*_sizes(horse), *_qualities(horse), *_kinds(horse), *_pngs(horse)):
        save(folder / f"real-{name}")
    for name, save in _synthetic(random.Random(_SEED)):
        save(folder / f"synthetic-{name}")
    return sorted(path.name for path in folder.iterdir())


def _sizes(horse: Image.Image) -> Iterator[tuple[str, Save]]:
    """Yield the photo in other sizes, up to 24 megapixels, and crops of it."""
    for width, height in (
        (48, 64),
        (224, 224),
        (640, 427),
        (1281, 853),
        (4000, 3000),
        (6000, 4000),
    ):
        yield f"{width}x{height}.jpg", _saved(horse.resize((width, height)), quality=90)
    width, height = horse.size
    parts = {
        "left": (0, 0, width // 2, height),
        "middle": (width // 4, height // 4, 3 * width // 4, 3 * height // 4),
        "odd": (3, 5, 3 + width // 2 | 1, 5 + height // 3 | 1),
    }
    for name, box in parts.items():
        yield f"part-{name}.jpg", _saved(horse.crop(box), quality=85)
    yield "turned.jpg", _saved(horse.transpose(Image.Transpose.ROTATE_90), quality=80)


def _qualities(horse: Image.Image) -> Iterator[tuple[str, Save]]:
    """Yield the photo in JPEG qualities from 10 to 100, with and without chroma subsampling."""
    for sampling, qualities in (
        ("420", (10, 25, 50, 75, 90, 100)),
        ("422", (60,)),
        ("444", (10, 40, 75, 95, 100)),
    ):
        for quality in qualities:
            options = {"quality": quality, "subsampling": _SUBSAMPLING[sampling]}
            yield f"{sampling}-q{quality}.jpg", _saved(horse, **options)


def _kinds(horse: Image.Image) -> Iterator[tuple[str, Save]]:
    """Yield JPEG files of unusual kinds."""
    turned = Image.Exif()
    turned[0x0112] = 6  # viewers turn it; the pipeline does not
    yield "progressive-420.jpg", _saved(horse, quality=75, progressive=True)
    yield "progressive-444.jpg", _saved(horse, quality=90, progressive=True, subsampling=0)
    yield "restarts.jpg", _saved(horse, quality=80, restart_marker_blocks=7)
    yield "exif-turned.jpg", _saved(horse, quality=80, exif=turned)
    yield "grey.jpg", _saved(horse.convert("L"), quality=75)
    yield "grey-progressive-q10.jpg", _saved(horse.convert("L"), quality=10, progressive=True)
    yield "cmyk.jpg", _saved(horse.convert("CMYK"), quality=85)
    yield "cmyk-q30.jpg", _saved(horse.convert("CMYK"), quality=30)


def _pngs(horse: Image.Image) -> Iterator[tuple[str, Save]]:
    """Yield PNG files of every colour type and depth that Pillow writes, and one it does not."""
    clear = horse.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(horse.size))
    palette = horse.quantize(64)
    grey = horse.convert("L")
    yield "rgb.png", _saved(horse)
    yield "alpha.png", _saved(clear)
    yield "grey.png", _saved(grey)
    yield "grey-alpha.png", _saved(clear.convert("LA"))
    yield "palette.png", _saved(palette)
    yield "palette-clear.png", _saved(palette, transparency=3)
    yield "one-bit.png", _saved(horse.convert("1"))
    yield "grey-16-bit.png", _saved(_sixteen_bit(grey))
    yield "rgb-16-bit.png", lambda path: path.write_bytes(_deep_png(horse.resize((96, 64))))


def _synthetic(numbers: random.Random) -> Iterator[tuple[str, Save]]:
    """Yield images of the smallest and oddest sizes, flat ones, patterns and noise."""
    for width, height in ((1, 1), (2, 2), (1, 300), (300, 1), (7, 5), (17, 33), (225, 223)):
        image = _noise(numbers, width, height)
        yield f"noise-{width}x{height}.jpg", _saved(image, quality=75)
    yield "noise-3000x2000.jpg", _saved(_noise(numbers, 3000, 2000), quality=60)
    yield "noise-1x1.png", _saved(_noise(numbers, 1, 1))
    yield "noise-333x444.png", _saved(_noise(numbers, 333, 444))
    yield "noise-444-q100.jpg", _saved(_noise(numbers, 512, 384), quality=100, subsampling=0)
    smooth = _noise(numbers, 9, 9).resize((1024, 768), Image.Resampling.BICUBIC)
    yield "smooth.jpg", _saved(smooth, quality=60)
    yield "smooth-progressive.jpg", _saved(smooth, quality=30, progressive=True)
    for colour in ("black", "white", "red"):
        yield f"{colour}.jpg", _saved(Image.new("RGB", (64, 48), colour))
    board = Image.frombytes("L", (2, 2), bytes((0, 255, 255, 0)))
    yield "chessboard.png", _saved(board.resize((450, 450), Image.Resampling.NEAREST))
    yield "gradient.png", _saved(Image.linear_gradient("L").resize((700, 500)).convert("RGB"))


def _saved(image: Image.Image, **options: Any) -> Save:
    return lambda path: image.save(path, **options)


def _noise(numbers: random.Random, width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), numbers.randbytes(width * height * 3))


def _sixteen_bit(grey: Image.Image) -> Image.Image:
    """Return the image in 16 bits, with lower bytes that do not follow from the upper ones."""
    pairs = b"".join(bytes(((value * 7) % 256, value)) for value in grey.tobytes())
    return Image.frombytes("I;16", grey.size, pairs)


def _deep_png(image: Image.Image) -> bytes:
    """Encode a PNG of 16 bits per channel in RGB."""
    width, height = image.size
    values = iter(image.tobytes())
    row = width * 3
    lines = [
        b"\0" + b"".join(bytes((next(values), (17 * i) % 256)) for i in range(row))
        for _ in range(height)
    ]
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder to write them into")
    folder = parser.parse_args().folder
    print(f"{len(write_images(folder))} images in {folder}")
