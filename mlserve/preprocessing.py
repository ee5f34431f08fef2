"""The steps between a decoded image and the model's input, as data that every backend builds from.

    uint8 RGB -> channels -> resize -> crop or pad -> arithmetic -> float32

The arithmetic of sizes is here too, in pure Python, so that all backends share it;
`mlserve.image_pipeline.arithmetic` makes numbers of pixels. The rules are those of torchvision's
`transforms`, timm's `data`, and transformers' image processors, slow (`image_transforms`) and fast
(`image_processing_utils_fast`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from mlserve.images import RGB

MOST_SIDE = 2**16
"""The longest side that a pipeline may ask for, in pixels."""
_WHITE = 255
LARGEST = 1_000_000
"""The largest mean or standard deviation."""
LEAST_DIVISOR = 2.0**-126
"""The smallest float32 with all its digits: TensorFlow takes a smaller one for 0."""


class Channels(StrEnum):
    """The colours that the model takes, and their order."""

    RGB = "rgb"
    BGR = "bgr"
    GREY = "grey"
    """`(19595 R + 38470 G + 7471 B + 0x8000) >> 16`, as Pillow's `convert("L")`."""


class ResizeMode(StrEnum):
    """How the size that an image is resized to follows from its own size."""

    DIRECT = "direct"
    """Straight to that height and width, whatever the ratio."""
    SHORTEST_EDGE = "shortest-edge"
    """The shorter side gets that length; the ratio is kept."""
    LETTERBOX = "letterbox"
    """As large as fits into that height and width; the ratio is kept, and the rest is filled."""


class Interpolation(StrEnum):
    """How the value between pixels is found."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    NEAREST = "nearest"

    @property
    def has_antialias(self) -> bool:
        """Whether Pillow's filter of that name is wider for smaller images."""
        return self is not Interpolation.NEAREST


class CropOffset(StrEnum):
    """Where the centre crop begins, and the padding of an image smaller than the crop.

    They differ only where an odd number of pixels is left over.
    """

    ROUND = "round"
    """Cut at `int(round(rest / 2))`, halves to even; pad `rest // 2`: torchvision, timm."""
    FLOOR = "floor"
    """Cut at `rest // 2`; pad `rest // 2`: transformers' fast image processors."""
    FLOOR_PAD_MORE = "floor-pad-more"
    """Cut at `rest // 2`; pad `rest - rest // 2`: transformers' slow image processors."""


class Arithmetic(StrEnum):
    """How a pixel becomes a float32: the order of the operations decides on the last bit.

    `scale` and `offset` are those of the ImagePipeline. Every result is rounded to float32.
    """

    MULTIPLY = "multiply"
    """`x * scale + offset`, then `- mean`, then `/ std`."""
    DIVIDE = "divide"
    """`x / (1 / scale) + offset`, then `- mean`, then `/ std`: torchvision, timm, Keras."""
    MULTIPLY_DOUBLE = "multiply-double"
    """`x * scale` in float64, then as MULTIPLY: transformers' slow image processors."""
    FUSED = "fused"
    """`(x - mean / scale) / (std / scale)`, no offset: transformers' fast image processors."""


@dataclass(frozen=True, slots=True)
class Resize:
    """How an image is resized.

    `size` is (height, width); None is the model's own. For SHORTEST_EDGE both are the shorter
    side's length. With `antialias`, or NEAREST, the result is Pillow's `Image.resize`, uint8, the
    width before the height; otherwise it is TensorFlow's `tf.image.resize` with half-pixel centres,
    float32. `fill` is the
    colour beside a letterboxed image, one value (0..255) for each channel of the model.
    """

    mode: ResizeMode = ResizeMode.DIRECT
    size: tuple[int, int] | None = None
    interpolation: Interpolation = Interpolation.BILINEAR
    antialias: bool = False
    fill: tuple[int, ...] = ()

    @property
    def is_uint8(self) -> bool:
        """Whether the resized pixels are whole numbers."""
        return self.antialias or self.interpolation is Interpolation.NEAREST


class Span(NamedTuple):
    """One axis of the model's input: the positions of the resized image that it shows.

    `length` positions from `start`, with `before` positions of padding in front of them.
    """

    start: int
    length: int
    before: int


class Geometry(NamedTuple):
    """The height and width that an image is resized to, and the part that the model gets."""

    height: int
    width: int
    rows: Span
    columns: Span


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What is done to a decoded image, uint8[height, width, 3] RGB, before the model.

    The default is version 1 of the image pipeline. `depth` is the number of the model's channels:
    3, or 1 for grey. `mean` and `std` have one value for each of them, in the model's order; empty
    means that none is subtracted or divided by. They apply to what `scale` and `offset` make of a
    pixel. Padding beside a crop is black.
    """

    channels: Channels = Channels.RGB
    depth: int = RGB
    resize: Resize = Resize()
    crop_offset: CropOffset = CropOffset.ROUND
    arithmetic: Arithmetic = Arithmetic.MULTIPLY
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def geometry(self, image: tuple[int, int], model: tuple[int, int]) -> Geometry:
        """Return where an image of (height, width) lies in the input of a model of that size."""
        height, width = resized_size(self.resize, image, model)
        rows = span(height, model[0], self.crop_offset)
        return Geometry(height, width, rows, span(width, model[1], self.crop_offset))

    @property
    def padding(self) -> tuple[int, ...]:
        """The colour beside the image, one value for each channel."""
        is_filled = self.resize.mode is ResizeMode.LETTERBOX and self.resize.fill
        return self.resize.fill if is_filled else (0,) * self.depth

    def require_sane(self, scale: float, offset: float) -> None:
        """Raise ValueError for what no pipeline can have: manifests are not trusted.

        The numbers are the pipeline's scale and offset.
        """
        depths = (1, RGB) if self.channels is Channels.GREY else (RGB,)
        _require(type(self.depth) is int and self.depth in depths, "depth", self.depth)
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            is_known = len(numbers) in (0, self.depth) and all(map(is_number, numbers))
            _require(is_known, name, numbers)
        _require(all(number >= LEAST_DIVISOR for number in self.std), "std", self.std)
        is_divisor = abs(scale) >= LEAST_DIVISOR
        _require(self.arithmetic is not Arithmetic.DIVIDE or is_divisor, "scale", scale)
        if self.arithmetic is Arithmetic.FUSED:
            _require(
                scale > 0 and bool(self.mean and self.std), "scale without mean and std", scale
            )
            _require(offset == 0, "offset", offset)
        self._require_sane_resize()

    def _require_sane_resize(self) -> None:
        resize = self.resize
        _require(type(resize.antialias) is bool, "antialias", resize.antialias)
        has_antialias = resize.antialias and resize.interpolation is Interpolation.NEAREST
        _require(not has_antialias, "antialias of nearest", resize.antialias)
        size = resize.size
        if size is not None:
            is_size = len(size) == 2 and all(_is_whole(side, 1, MOST_SIDE) for side in size)  # noqa: PLR2004
            _require(is_size, "size", size)
            is_edge = resize.mode is not ResizeMode.SHORTEST_EDGE or size[0] == size[1]
            _require(is_edge, "shortest edge", size)
        is_fill = len(resize.fill) in (0, self.depth)
        is_fill = is_fill and all(_is_whole(value, 0, _WHITE) for value in resize.fill)
        _require(is_fill, "fill", resize.fill)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Read the output of `to_json`. Raises ValueError, KeyError and TypeError."""
        resize = data["resize"]
        size = resize["size"]
        return cls(
            channels=Channels(data["channels"]),
            depth=data["depth"],
            resize=Resize(
                mode=ResizeMode(resize["mode"]),
                size=None if size is None else tuple(size),
                interpolation=Interpolation(resize["interpolation"]),
                antialias=resize["antialias"],
                fill=tuple(resize["fill"]),
            ),
            crop_offset=CropOffset(data["crop_offset"]),
            arithmetic=Arithmetic(data["arithmetic"]),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
        )


VERSION_1 = Preprocessing()
"""The steps of versions 1 and 2 of the image pipeline."""


def resized_size(resize: Resize, image: Sequence[int], model: Sequence[int]) -> tuple[int, int]:
    """Return the height and width that an image of (height, width) is resized to.

    `model` is the size of the model's input.
    """
    height, width = image
    tall, wide = resize.size or model
    match resize.mode:
        case ResizeMode.DIRECT:
            return tall, wide
        case ResizeMode.SHORTEST_EDGE:
            # `_compute_resized_output_size` of torchvision.transforms.functional.
            edge = min(tall, wide)
            longer = int(edge * max(height, width) / min(height, width))
            return (edge, longer) if height <= width else (longer, edge)
        case ResizeMode.LETTERBOX:
            ratio = min(tall / height, wide / width)
            return max(1, round(height * ratio)), max(1, round(width * ratio))


def excess_of_size(geometry: Geometry, image: Sequence[int], most: int) -> str | None:
    """Return what is too large about the size that an image (height, width) is resized to, or None.

    A strip of a few pixels' height can become gigabytes when its shorter side is enlarged.
    """
    if geometry.height * geometry.width <= most:
        return None
    return (
        f" to resize ({image[1]}x{image[0]} becomes {geometry.width}x{geometry.height}, at most "
        f"{most} pixels)"
    )


def span(length: int, wanted: int, offset: CropOffset) -> Span:
    """Return which part of a resized axis of that length fills the `wanted` positions."""
    rest = abs(length - wanted)
    if length >= wanted:
        start = round(rest / 2) if offset is CropOffset.ROUND else rest // 2
        return Span(start, wanted, 0)
    return Span(0, length, rest - rest // 2 if offset is CropOffset.FLOOR_PAD_MORE else rest // 2)


def is_number(value: object) -> bool:
    """Return whether it is a number that a mean can be: finite, and not too large."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -LARGEST <= value <= LARGEST  # whole numbers of any length, and NaN, too


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _require(is_sane: bool, name: str, value: object) -> None:
    if not is_sane:
        raise ValueError(f"{name} is {value!r:.80}, which no image pipeline has")
