"""The transforms of torchvision's weights: its `ImageClassification` preset, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlserve.pixel_options import PixelOptions
from mlserve.preprocessing import Arithmetic, Channels, CropOffset, ResizeMode
from mlserve.preprocessors.preprocessor import UNIT, Preprocessor, Reader, with_origin

_NAMES = {
    name: name.removesuffix("-exact")
    for name in ("nearest", "nearest-exact", "bilinear", "bicubic", "lanczos", "box", "hamming")
}
"""`torchvision.transforms.InterpolationMode`; Pillow's nearest, which images get, is the exact."""


def read(data: Mapping[str, Any], name: str) -> Preprocessor:
    """Return what the preset says: resize the shorter side, cut the centre, normalise.

    `data` has the preset's attributes, `interpolation` as its value; `categories` are the labels,
    if the weights name any. Images are Pillow's, as `decode_image` and datasets give them. Raises
    ExportError, naming the key.
    """
    reader = Reader(name, data)
    edge = reader.side("resize_size", _only(data["resize_size"]))
    side = reader.side("crop_size", _only(data["crop_size"]))
    sizes = PixelOptions(mode=ResizeMode.SHORTEST_EDGE, size=(edge, edge), input=(side, side))
    pixels = transformed(reader, sizes, _NAMES)
    labels = tuple(map(str, data.get("categories") or ())) or None
    return Preprocessor(name, pixels, UNIT, labels, f"the categories of {name}")


def transformed(reader: Reader, sizes: PixelOptions, names: Mapping[str, str]) -> PixelOptions:
    """Return what torchvision's transforms do to Pillow's RGB images of those sizes.

    The rest is read from `interpolation` (by its name in `names`), `mean` and `std`. timm's
    transforms are torchvision's.
    """
    interpolation = reader.interpolation("interpolation", names)
    pixels = replace(
        sizes,
        channels=Channels.RGB,
        interpolation=interpolation,
        antialias=interpolation.has_antialias,
        mean=reader.numbers("mean"),
        std=reader.deviations("std"),
        crop_offset=CropOffset.ROUND,
        arithmetic=Arithmetic.DIVIDE,
    )
    return replace(pixels, origins=with_origin(pixels, reader.name))


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
