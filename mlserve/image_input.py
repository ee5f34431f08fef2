"""The input of an image classifier: its name, axis order and sizes, and how each is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np  # noqa: TID253

from mlserve.errors import ExportError
from mlserve.images import RGB
from mlserve.kinds import AS_TENSORS
from mlserve.pipeline import ImagePipeline
from mlserve.sources import Fact, How, ModelRequest
from mlserve.tensors import DType, TensorSpec

_RANK = 4
ONE_IMAGE_IN = (
    "export a classifier that takes one float32 image batch and gives one row of scores; or "
    + AS_TENSORS
)
"""The hint for a model that is not an image classifier."""


class Layout(Enum):
    """The position of the colour axis: last (NHWC) or before the pixels (NCHW)."""

    NHWC = "NHWC"
    NCHW = "NCHW"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A classifier's only input. Sizes that the model leaves open are None."""

    name: str
    layout: Layout
    batch: int | None
    height: int | None
    width: int | None
    colours: int | None

    @classmethod
    def from_spec(cls, spec: TensorSpec, depth: int = RGB) -> ImageInput:
        """Read an input whose colour axis is `depth`. Raises ValueError for other than images."""
        readings = [image for image in cls.readings(spec, (depth,)) if image.colours is not None]
        if not readings:
            raise ValueError(f"the input is {spec}")
        return readings[0]

    @classmethod
    def readings(cls, spec: TensorSpec, depths: Sequence[int] = (RGB,)) -> list[ImageInput]:
        """Return the layouts that an input can have: its colour axis is of `depths`, or left open.

        One that has such a size comes before one that leaves it open.
        """
        if spec.dtype is not DType.FLOAT32 or spec.shape is None or len(spec.shape) != _RANK:
            return []
        batch, first, middle, last = spec.shape
        found = [
            cls(spec.name, Layout.NHWC, batch, first, middle, last),
            cls(spec.name, Layout.NCHW, batch, middle, last, first),
        ]
        possible = [image for image in found if image.colours in (*depths, None)]
        return sorted(possible, key=lambda image: image.colours is None)

    @property
    def depth(self) -> int:
        """The number of colours: 3 if the model leaves it open."""
        return self.colours or RGB

    @property
    def has_open_sizes(self) -> bool:
        """Whether the model leaves the height, the width or the colours open."""
        return None in (self.height, self.width, self.colours)

    def fits(self, pipeline: ImagePipeline, scores: Sequence[int | None] | None) -> bool:
        """Return whether a model of this input, and scores of that shape, can be the pipeline's."""
        columns = 1 if pipeline.activation.is_binary else pipeline.classes
        return (
            self.height in (None, pipeline.height)
            and self.width in (None, pipeline.width)
            and tuple(scores or ())[1:] in ((columns,), (None,))
        )

    def arranged(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Rearrange float32[N, height, width, depth] into the model's layout."""
        if self.layout is Layout.NHWC:
            return images
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    def size(self, model: str, request: ModelRequest) -> tuple[int, int]:
        """Return height and width: the model's own, or those that the user gives.

        `model` is its name in messages: `the model in FILE`. Raises ExportError if neither says
        them, or they differ.
        """
        wanted = request.input_size
        tall, wide = request.open_size
        height, width = self.height or tall, self.width or wide
        if height is None or width is None:
            raise ExportError(
                f"{model} leaves its input size open",
                hint="say which it was trained with: --input-size N",
            )
        if wanted is not None and {height, width} != {wanted}:
            raise ExportError(
                f"--input-size {wanted} does not fit {model}, which takes {width}x{height}",
                hint="leave --input-size out: the model knows its size",
            )
        return height, width


def image_input(
    model: str,
    spec: TensorSpec,
    shown: str,
    request: ModelRequest,
    runs: Callable[[ImageInput, tuple[int, int]], bool],
) -> tuple[ImageInput, Fact]:
    """Return the input in the layout given by the user, the model or a test run.

    `shown` is the input in messages, as its framework writes it. `runs` tells whether the model
    runs on an image of that layout and size. Raises ExportError for other than one batch of images.
    """
    wanted = None if request.layout is None else Layout(request.layout.upper())
    readings = ImageInput.readings(spec, request.pixels.depths)
    fitting = [image for image in readings if wanted in (None, image.layout)]
    if not fitting:
        misfit = f". --layout {request.layout} does not fit" if readings else ""
        raise not_images(model, shown, misfit or or_grey(spec))
    if fitting[0].batch not in (None, 1):
        raise ExportError(
            f"{model} takes batches of {fitting[0].batch} only ({shown})",
            hint="save the model with an open batch size, or with 1",
        )
    if wanted is not None:
        return fitting[0], Fact(How.GIVEN)
    if len(fitting) == 1 or fitting[0].colours is not None:
        return fitting[0], Fact(How.FOUND, f"its input is {shown}")
    running = [image for image in fitting if runs(image, image.size(model, request))]
    if len(running) == 1:
        layout = running[0].layout.value
        return running[0], Fact(How.FOUND, f"it runs with {layout} and with no other layout")
    which = "either layout" if running else "neither layout"
    raise ExportError(
        f"{model} takes {shown} and runs with {which}",
        hint="say where the colours are: --layout nchw or --layout nhwc"
        if running
        else "check --input-size: say which size it was trained with",
    )


def or_grey(spec: TensorSpec) -> str:
    """Return what makes images of an input with one channel, for the end of a message."""
    has_one = any(image.colours == 1 for image in ImageInput.readings(spec, (1,)))
    return "; if it takes grey images, say --channels grey" if has_one else ""


def not_images(model: str, shown: str, more: str = "") -> ExportError:
    """Return the error for a model that takes something else than a batch of images."""
    return ExportError(
        f"{model} takes {shown}, not float[N,height,width,3] or float[N,3,height,width]{more}",
        hint=ONE_IMAGE_IN,
    )
