"""The options of `mlserve export` about pixels: how training prepared its images."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from mlserve.errors import UsageError
from mlserve.pixel_options import MOST_RESIZED_SIDE
from mlserve.preprocessing import LARGEST, LEAST_DIVISOR, Channels, Interpolation, ResizeMode

T = TypeVar("T")

MeanOption = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="What to subtract from each channel after --scale, such as 0.485,0.456,0.406, in the "
        "order of --channels; one number is for all of them. --scale is then 0..1 unless given.",
        show_default=False,
    ),
]
StdOption = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="What to divide each channel by after --mean, such as 0.229,0.224,0.225.",
        show_default=False,
    ),
]
ResizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODE[:SIZE]",
        help="How an image gets the size of the input. direct: straight to it; shortest-edge: its "
        "shorter side gets that length, and the centre is cut out; letterbox: all of it is shown, "
        "and --fill fills the rest. SIZE is what it is resized to, in pixels, such as "
        "shortest-edge:256 or direct:292x256 (width x height). Default: direct, to the size of the "
        "input.",
        show_default=False,
    ),
]
CropOption = Annotated[
    float | None,
    typer.Option(
        metavar="FRACTION",
        help="The part of the resized image that the input shows, its centre: 0.875 resizes to 256 "
        "for an input of 224. With --resize shortest-edge, which is its default, or direct.",
        show_default=False,
    ),
]
InterpolationOption = Annotated[
    Interpolation | None,
    typer.Option(help="How pixels are interpolated. Default: bilinear.", show_default=False),
]
AntialiasOption = Annotated[
    bool | None,
    typer.Option(
        "--antialias/--no-antialias",
        help="Whether to resize as Pillow does, which torchvision, timm and transformers use: each "
        "pixel of a smaller image is a mean. Default: no, as TensorFlow does.",
        show_default=False,
    ),
]
ChannelsOption = Annotated[
    Channels | None,
    typer.Option(
        help="The colours that the model takes, and their order. Default: rgb.", show_default=False
    ),
]
FillOption = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="The colour beside an image with --resize letterbox, 0 to 255: one number, or one for "
        "each channel. Default: 0, black.",
        show_default=False,
    ),
]
PreprocessorOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|DIR|torchvision:MODEL|timm:MODEL",
        help="What says how training prepared its images, so that you need not: Hugging Face's "
        "preprocessor_config.json or its folder, timm's config.json, or the weights of an "
        "installed torchvision (torchvision:ResNet50_Weights.IMAGENET1K_V2, torchvision:resnet50) "
        "or timm. Options beside it take precedence. Also gives the labels that it knows.",
        show_default=False,
    ),
]

_SIZE = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")


def parse_mean(text: str) -> tuple[float, ...]:
    """Parse `--mean`. Raises UsageError for anything but finite numbers."""
    return _numbers("--mean", text, _finite, "give numbers: --mean 0.485,0.456,0.406")


def parse_std(text: str) -> tuple[float, ...]:
    """Parse `--std`. Raises UsageError for anything but numbers above 0."""
    values = _numbers("--std", text, _finite, "give numbers: --std 0.229,0.224,0.225")
    bad = [value for value in values if value < LEAST_DIVISOR]
    if bad:
        why = "which is 0 as a float32" if bad[0] > 0 else "and a standard deviation is above 0"
        raise UsageError(
            f"--std {text} divides by {bad[0]:g}, {why}",
            hint="leave --std out if the training code divides by nothing",
        )
    return values


def parse_fill(text: str) -> tuple[int, ...]:
    """Parse `--fill`. Raises UsageError for anything but whole numbers up to 255."""
    return _numbers("--fill", text, _colour, "give whole numbers from 0 to 255: --fill 114")


def parse_resize(text: str) -> tuple[ResizeMode, tuple[int, int] | None]:
    """Parse `MODE[:SIZE]` to the mode and (height, width). Raises UsageError."""
    word, separator, size = text.partition(":")
    modes = ", ".join(ResizeMode)
    if word not in tuple(ResizeMode):
        raise UsageError(f"--resize {text!r} is not a way to resize", hint=f"give one of {modes}")
    mode = ResizeMode(word)
    if not separator:
        return mode, None
    found = _SIZE.fullmatch(size)
    width = int(found[1]) if found else 0
    height = int(found[2] or width) if found else 0
    if not all(1 <= side <= MOST_RESIZED_SIDE for side in (width, height)):
        raise UsageError(
            f"--resize {text!r} has no size that can be resized to",
            hint=f"give 1 to {MOST_RESIZED_SIDE} pixels: --resize {word}:256",
        )
    if mode is ResizeMode.SHORTEST_EDGE and found and found[2]:
        raise UsageError(
            f"--resize {text!r} gives two sides, and the shortest edge is one",
            hint=f"give its length: --resize {word}:{min(width, height)}",
        )
    return mode, (height, width)


def require_fraction(crop: float) -> float:
    """Return `--crop`. Raises UsageError unless it is above 0 and at most 1."""
    if not 0 < crop <= 1:
        raise UsageError(
            f"--crop {crop:g} is not a part of the image, above 0 and at most 1",
            hint="0.875 resizes to 256 for an input of 224",
        )
    return crop


def _numbers(option: str, text: str, read: Callable[[str], T], hint: str) -> tuple[T, ...]:
    try:
        return tuple(read(part) for part in text.split(","))
    except ValueError as error:
        problem = f"{option} {text!r} is not a list of numbers: {error}"
        raise UsageError(problem, hint=hint) from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    if abs(value) > LARGEST:
        raise ValueError(f"{text!r} is over {LARGEST}")
    return value


def _colour(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 255:  # noqa: PLR2004 - the values of a pixel
        raise ValueError(f"{text!r} is not in 0..255")
    return value
