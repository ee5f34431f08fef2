"""The input of an image classifier in an ONNX file: its name, axis order and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

RGB = 3
_RANK = 4


class Layout(Enum):
    """The position of the colour axis: last (NHWC) or before the pixels (NCHW)."""

    NHWC = "NHWC"
    NCHW = "NCHW"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A classifier's only input. Sizes that the file leaves open are None."""

    name: str
    layout: Layout
    batch: int | None
    height: int | None
    width: int | None

    @classmethod
    def from_tensor(cls, tensor: Any) -> ImageInput:
        """Read an input as ONNX Runtime describes it. Raises ValueError for other than images."""
        readings = [
            image for image in cls.readings(tensor) if image.sizes_of(tensor)[-1] is not None
        ]
        if not readings:
            raise ValueError(f"the input is {described(tensor)}")
        return readings[0]

    @classmethod
    def readings(cls, tensor: Any) -> list[ImageInput]:
        """Return the layouts that an input can have: its colour axis is 3, or left open.

        One with a 3 comes before one that leaves it open.
        """
        sizes = open_sizes(tensor.shape)
        if tensor.type != "tensor(float)" or sizes is None or len(sizes) != _RANK:
            return []
        batch, first, middle, last = sizes
        found = []
        if last in (RGB, None):
            found.append((last, cls(tensor.name, Layout.NHWC, batch, first, middle)))
        if first in (RGB, None):
            found.append((first, cls(tensor.name, Layout.NCHW, batch, middle, last)))
        return [image for colours, image in sorted(found, key=lambda pair: pair[0] is None)]

    def sizes_of(self, tensor: Any) -> tuple[int | None, int | None, int | None]:
        """Return height, width and colours of an input in this layout; None for open ones."""
        _, first, middle, last = open_sizes(tensor.shape) or (None,) * _RANK
        return (first, middle, last) if self.layout is Layout.NHWC else (middle, last, first)

    def arranged(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Rearrange float32[N, height, width, 3] into the model's layout."""
        if self.layout is Layout.NHWC:
            return images
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def open_sizes(shape: Sequence[Any]) -> tuple[int | None, ...] | None:
    """Return a shape with None for each open size, which has a name or no value in the file.

    Returns None for an unknown rank, which ONNX Runtime does not distinguish from a scalar.
    """
    if not shape:
        return None
    return tuple(size if isinstance(size, int) else None for size in shape)


def described(tensor: Any) -> str:
    """Format an input or output for a message: `images float[N,224,224,3]`."""
    kind = tensor.type.removeprefix("tensor(").removesuffix(")")
    sizes = ",".join("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.name} {kind}[{sizes}]"
