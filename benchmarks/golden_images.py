"""Write the golden images of `mlserve/certificate/images` from the photos in scikit-image.

They are written once and kept, so that the same question is asked everywhere: another version of
Pillow would write other bytes. Needs scikit-image, and Pillow.

    python benchmarks/golden_images.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from PIL import Image

PHOTOS = Path(skimage.__file__).with_name("data")
FOLDER = Path(__file__).resolve().parents[1] / "mlserve" / "certificate" / "images"


def photo(name: str, box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """Return a crop of a photo, scaled to (width, height)."""
    with Image.open(PHOTOS / name) as image:
        return image.convert("RGB").crop(box).resize(size, Image.Resampling.LANCZOS)


def noise(width: int, height: int) -> Image.Image:
    """Return seeded noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def gradient(width: int, height: int) -> Image.Image:
    """Return an image that gets lighter to the right in red, and downwards in green."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = columns * 255 // (width - 1), rows * 255 // (height - 1)
    return Image.fromarray(np.stack([red, green, 255 - red], axis=-1).astype(np.uint8))


def _with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


ASTRONAUT, CAT, COFFEE = "astronaut.png", "chelsea.png", "coffee.png"
IMAGES: dict[str, tuple[Callable[[], Image.Image], dict[str, Any]]] = {
    "astronaut.jpg": (lambda: photo(ASTRONAUT, (0, 0, 512, 512), (256, 256)), {"quality": 85}),
    "face.jpg": (
        lambda: photo(ASTRONAUT, (170, 20, 290, 160), (120, 140)),
        {"quality": 92, "subsampling": 0},
    ),
    "cmyk.jpg": (
        lambda: photo(ASTRONAUT, (256, 256, 512, 512), (128, 128)).convert("CMYK"),
        {"quality": 80},
    ),
    "cat.jpg": (
        lambda: photo(CAT, (0, 0, 451, 300), (320, 213)),
        {"quality": 90, "subsampling": 0},
    ),
    "cat-tall.jpg": (lambda: photo(CAT, (120, 20, 240, 300), (90, 210)), {"quality": 75}),
    "cat-alpha.png": (lambda: _with_alpha(photo(CAT, (100, 50, 300, 250), (64, 64))), {}),
    "coffee.jpg": (
        lambda: photo(COFFEE, (0, 0, 600, 400), (300, 200)),
        {"quality": 85, "progressive": True},
    ),
    "cup.png": (lambda: photo(COFFEE, (200, 80, 440, 320), (80, 80)), {}),
    "cup-grey.jpg": (
        lambda: photo(COFFEE, (200, 80, 440, 320), (224, 224)).convert("L"),
        {"quality": 60},
    ),
    "camera-grey.png": (lambda: photo("camera.png", (0, 0, 512, 512), (96, 96)).convert("L"), {}),
    "rocket.jpg": (lambda: photo("rocket.jpg", (0, 0, 640, 427), (480, 320)), {"quality": 50}),
    "rocket-palette.png": (
        lambda: photo("rocket.jpg", (200, 0, 500, 300), (100, 100)).quantize(32),
        {},
    ),
    "grass.jpg": (lambda: photo("grass.png", (0, 0, 300, 200), (150, 100)), {"quality": 70}),
    "noise.jpg": (lambda: noise(64, 48), {"quality": 90}),
    "noise.png": (lambda: noise(33, 17), {}),
    "gradient.png": (lambda: gradient(300, 200), {}),
}


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name, (made, options) in IMAGES.items():
        made().save(FOLDER / name, optimize=True, **options)
    print(f"{sum(path.stat().st_size for path in FOLDER.iterdir())} bytes in {FOLDER}")


if __name__ == "__main__":
    main()
