"""Resizing as Pillow does: in strips, with rows left out, and of pixels with a fourth channel."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlserve.image_pipeline import pillow_resizing
from mlserve.image_pipeline.jpeg import accurate, padded
from mlserve.image_pipeline.pillow_resizing import pillow_resized
from mlserve.preprocessing import Geometry, Interpolation, Span
from mlserve.testing.images import plain

FILTERS = {
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
}


def part(chance: random.Random, length: int) -> Span:
    start = chance.randrange(length)
    return Span(start, chance.randint(1, length - start), 0)


def whole(image: Any, geometry: Geometry, interpolation: Interpolation) -> Any:
    """Resize by two calls to Pillow, the width first, and cut afterwards."""
    chosen = FILTERS[interpolation]
    narrow = Image.fromarray(image).resize((geometry.width, image.shape[0]), chosen)
    resized = np.asarray(narrow.resize((geometry.width, geometry.height), chosen))
    rows, columns = geometry.rows, geometry.columns
    return resized[rows.start :][: rows.length, columns.start :][:, : columns.length]


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("strip", [1, 700, 2**18])
def test_a_part_is_that_part_of_the_whole(
    interpolation: Interpolation, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pillow_resizing, "_STRIP", strip)
    chance, numbers = random.Random(strip), np.random.default_rng(strip)
    for _ in range(60):
        height, width, tall, wide = (chance.randint(1, 90) for _ in range(4))
        image = numbers.integers(0, 256, (height, width, 3), dtype=np.uint8)
        geometry = Geometry(tall, wide, part(chance, tall), part(chance, wide))
        expected = whole(image, geometry, interpolation)
        found = pillow_resized(image, geometry, interpolation, None)
        assert np.array_equal(found, expected)
        noise = numbers.integers(0, 256, (height, width, 1), dtype=np.uint8)
        four = np.concatenate([image, noise], axis=2)
        assert np.array_equal(pillow_resized(four, geometry, interpolation, None), expected)


def test_pixels_with_a_fourth_channel_are_those_of_the_accurate_decoder() -> None:
    file = plain("green", size=(37, 21))
    pixels = padded(file)
    assert pixels.shape[2] == 4
    assert np.array_equal(pixels[:, :, :3], accurate(file))
