"""What the user says about the pixels that a model was trained on, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

from mlserve.errors import ExportError, UsageError
from mlserve.images import RGB
from mlserve.preprocessing import (
    MOST_SIDE,
    VERSION_1,
    Arithmetic,
    Channels,
    CropOffset,
    Interpolation,
    Preprocessing,
    Resize,
    ResizeMode,
)

T = TypeVar("T")

MOST_RESIZED_SIDE = 4096
"""The longest side that an export may resize images to, in pixels."""

_ABOUT = ("input", "origins", "notes")
"""The fields that are no step."""
SUBJECTS = {"mode": "resize", "size": "resize"}
"""What a field is called in options and facts, if not by its own name."""


@dataclass(frozen=True, slots=True)
class PixelOptions:
    """The options of `mlserve export` about pixels; None or empty is what nobody said.

    `size` is what an image is resized to, (height, width), for SHORTEST_EDGE twice the shorter
    side. `crop` is the part of it that the model's input shows (timm's `crop_pct`): 0.875 means
    that an image is resized to 256 for an input of 224. `fill`, `mean` and `std` have one value, or
    one for each channel in the model's order. `input` is the (height, width) that the steps end
    with, if they were made for one. `origins` says, by the name of a field, where a value comes
    from that was not given on the command line, and `notes` what is to be said of one that was.
    """

    channels: Channels | None = None
    mode: ResizeMode | None = None
    size: tuple[int, int] | None = None
    crop: float | None = None
    interpolation: Interpolation | None = None
    antialias: bool | None = None
    fill: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop_offset: CropOffset | None = None
    arithmetic: Arithmetic | None = None
    input: tuple[int, int] | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def given(self) -> tuple[str, ...]:
        """Return the names of the fields that have a value."""
        names = (each.name for each in fields(self) if each.name not in _ABOUT)
        return tuple(name for name in names if getattr(self, name) not in (None, ()))

    @property
    def options(self) -> tuple[str, ...]:
        """Return the options of the command line that gave a value, each once."""
        names = [name for name in self.given if name not in self.origins]
        return tuple(dict.fromkeys(f"--{SUBJECTS.get(name, name)}" for name in names))

    @property
    def depths(self) -> tuple[int, ...]:
        """Return how many channels a model of images may take: one only if the user says grey.

        Otherwise a tensor with a size of 1 would be taken for an image by its shape alone.
        """
        return (RGB, 1) if self.channels is Channels.GREY else (RGB,)

    @property
    def normalizes(self) -> bool:
        """Return whether a mean is subtracted, or a deviation divided by."""
        return bool(self.mean or self.std)

    def require_fitting(self) -> None:
        """Raise UsageError for options that contradict each other, or have no effect."""
        if self.crop is not None and self.size is not None:
            raise UsageError(
                f"--crop {self.crop:g} and the size in --resize both say what an image is resized "
                "to",
                hint="leave one out: --resize shortest-edge:256 and an input of 224 is --crop "
                f"{224 / 256}",
            )
        is_letterbox = self.mode is ResizeMode.LETTERBOX
        if self.crop is not None and is_letterbox:
            raise UsageError(
                f"--crop {self.crop:g} cuts an image, and --resize letterbox shows all of it",
                hint="leave one of them out",
            )
        if self.fill and not is_letterbox:
            raise UsageError(
                f"--fill {_listed(self.fill)} has no effect: only --resize letterbox leaves "
                "something to fill",
                hint="leave --fill out, or add --resize letterbox",
            )
        if self.antialias and self.interpolation is Interpolation.NEAREST:
            raise UsageError(
                "--antialias has no effect on --interpolation nearest",
                hint="leave one of them out",
            )

    def require_resizable(self, model: tuple[int, int]) -> None:
        """Raise ExportError if --crop makes images too large for a model of that height, width."""
        if self.crop is not None and max(_cropped_from(model, self.crop)) > MOST_RESIZED_SIDE:
            raise ExportError(
                f"--crop {self.crop:g} of an input of {model[1]}x{model[0]} resizes images to more "
                f"than {MOST_RESIZED_SIDE} pixels a side",
                hint="give the part of the image that the input shows, such as 0.875",
            )

    def preprocessing(self, model: tuple[int, int], depth: int) -> Preprocessing:
        """Return the steps for a model of that (height, width) and number of channels.

        Those of version 1 if nothing is given. Raises ExportError for options that do not fit the
        model.
        """
        if not self.given:
            return VERSION_1
        self._require_input(model)
        mode, size = self._resized_to(model)
        steps = Preprocessing(
            channels=self._channels(depth),
            depth=depth,
            resize=Resize(
                mode=mode,
                size=size,
                interpolation=self.interpolation or Interpolation.BILINEAR,
                antialias=bool(self.antialias),
                fill=_for_each("--fill", self.fill, depth),
            ),
            crop_offset=self.crop_offset or CropOffset.ROUND,
            mean=_for_each("--mean", self.mean, depth),
            std=_for_each("--std", self.std, depth),
        )
        if steps == VERSION_1 and self.arithmetic in (None, Arithmetic.MULTIPLY):
            return VERSION_1
        # Training code divides; only version 1 multiplies.
        return replace(steps, arithmetic=self.arithmetic or Arithmetic.DIVIDE)

    def _require_input(self, model: tuple[int, int]) -> None:
        if self.input not in (None, model):
            origin = next(iter(self.origins.values()), "the preprocessor")
            raise ExportError(
                f"{origin} makes images of {_by(self.input)}, and the model takes {_by(model)}",
                hint="give the preprocessor of this model, or say what an image is resized to: "
                "--resize or --crop",
            )

    def _channels(self, depth: int) -> Channels:
        channels = self.channels or (Channels.GREY if depth == 1 else Channels.RGB)
        if depth == 1 and channels is not Channels.GREY:
            raise ExportError(
                f"--channels {channels} does not fit the model, which takes one channel",
                hint="give --channels grey",
            )
        return channels

    def _resized_to(self, model: tuple[int, int]) -> tuple[ResizeMode, tuple[int, int] | None]:
        """Return the mode and the size; None is the model's."""
        cuts = self.crop is not None
        mode = self.mode or (ResizeMode.SHORTEST_EDGE if cuts else ResizeMode.DIRECT)
        if mode is ResizeMode.SHORTEST_EDGE and self.size is None and model[0] != model[1]:
            raise ExportError(
                f"the model's input, {model[1]}x{model[0]}, is not square, so its shortest edge "
                "does not tell what an image is resized to",
                hint="say it: --resize shortest-edge:SIZE",
            )
        size = self.size
        if self.crop is not None:
            size = _cropped_from(model, self.crop)
        return mode, None if size == model else size


def _cropped_from(model: tuple[int, int], crop: float) -> tuple[int, int]:
    """Return what an image is resized to so that the model's input shows that part of it."""
    # `transforms_imagenet_eval` of timm.data.transforms_factory.
    height, width = (math.floor(min(side / crop, MOST_SIDE)) for side in model)
    return height, width


def _for_each(option: str, values: Sequence[T], depth: int) -> tuple[T, ...]:
    """Return one value for each channel. Raises ExportError for another number of them."""
    if len(values) == 1:
        return (values[0],) * depth
    if len(values) in (0, depth):
        return tuple(values)
    channels = "one channel" if depth == 1 else f"{depth} channels"
    raise ExportError(
        f"{option} {_listed(values)} has {len(values)} values, and the model takes {channels}",
        hint=f"give one value, or {depth} separated by commas" if depth > 1 else "give one value",
    )


def _by(size: tuple[int, int] | None) -> str:
    height, width = size or (0, 0)
    return f"{width}x{height}"


def _listed(values: Sequence[object]) -> str:
    return ",".join(map(str, values))
