"""Resize a batch of images on the device, bit for bit as `mlserve.image_pipeline.float_resizing`.

    files -> CPU: decode -> one upload of all pixels, still uint8 -> device: resize, scale

All images of a batch are resized by the same few operations, whatever their sizes: their pixels lie
one after another in one vector, and tables of positions say which of them each result is made of.
The operations and their order are those of the CPU, each rounded on its own, so the bits are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from mlserve.image_pipeline.codec import Refused
from mlserve.image_pipeline.float_resizing import Array, Axis, axis
from mlserve.image_pipeline.jpeg import JpegDecoder, accurate
from mlserve.images import RGB, problem_error
from mlserve.pipeline import ImagePipeline
from mlserve_torch.program import to_torch


class Unresized(NamedTuple):
    """An image, and how each of its axes is resized.

    `pixels` are uint8[height, width, 3] on the CPU, or uint8[3, height, width] on the device.
    """

    pixels: Any
    rows: Axis
    columns: Axis
    is_planar: bool = False


class BatchDecoder(Protocol):
    """Decodes JPEG files on the device: `gpu_jpeg.NvJpeg`."""

    def decoded(self, files: Sequence[Array]) -> list[torch.Tensor | None]:
        """Return uint8[3, height, width] of each file, uint8[bytes]; None for a refused one."""


class Resizing:
    """The steps of a pipeline between decoding and the model, on a device.

    With `nvjpeg`, JPEGs are decoded there too, and `decode_here` decodes on the CPU those that it
    refuses. `host_memory` returns memory of the CPU that the device reads by itself.
    """

    def __init__(
        self,
        pipeline: ImagePipeline,
        device: torch.device,
        host_memory: Callable[[int, torch.dtype], torch.Tensor],
        nvjpeg: BatchDecoder | None = None,
        decode_here: Callable[[bytes], Array] = accurate,
    ) -> None:
        self._pipeline = pipeline
        self._device = device
        self._host_memory = host_memory
        self._nvjpeg = nvjpeg
        self._decode_here = decode_here
        self.decoder: JpegDecoder = accurate if nvjpeg is None else _left

    def prepare(self, image: Array) -> Unresized | Array:
        """Return the image with its axes; a large one is reduced to the pixels that are needed.

        A file that nvJPEG is to decode is returned as it is, uint8[bytes].
        """
        if image.ndim == 1:
            return image
        height, width = self._pipeline.height, self._pipeline.width
        rows, columns = axis(image.shape[0], height), axis(image.shape[1], width)
        if image.size <= 4 * height * width * RGB:
            return Unresized(np.ascontiguousarray(image), rows, columns)
        needed = image[_pairs(rows)[:, np.newaxis], _pairs(columns)]
        return Unresized(needed, _of_pairs(rows), _of_pairs(columns))

    def pixels(self, images: Sequence[Unresized | Array], span: range) -> torch.Tensor:
        """Return the model's input for those images of a call: float32[N, height, width, 3].

        Runs on the device's current stream, and does not wait for it. Raises InvalidInput for a
        JPEG that neither nvJPEG nor the CPU can decode.
        """
        # nvJPEG writes on a stream of its own. It comes first, while nothing is queued on this one
        # that still reads memory which its results may get.
        found = self._decoded(images, span)
        different = list({id(image): image for image in found}.values())
        # The pixels from the CPU first, then those that are on the device already.
        different.sort(key=lambda image: image.is_planar)
        sizes = [_size(image) for image in different]
        starts = dict(zip(map(id, different), accumulate(sizes, initial=0), strict=False))
        values = self._resized(self._flat(different), found, [starts[id(each)] for each in found])
        values *= float(np.float32(self._pipeline.scale))
        values += float(np.float32(self._pipeline.offset))
        return values.view(len(found), self._pipeline.height, self._pipeline.width, RGB)

    def _decoded(self, images: Sequence[Unresized | Array], span: range) -> list[Unresized]:
        """Return those images, with the files among them decoded, a repeated one once."""
        files = {id(images[i]): i for i in reversed(span) if not isinstance(images[i], Unresized)}
        done = dict(zip(files, self._of_files(images, list(files.values())), strict=True))
        chosen = [images[i] for i in span]
        return [each if isinstance(each, Unresized) else done[id(each)] for each in chosen]

    def _of_files(
        self, images: Sequence[Unresized | Array], indices: Sequence[int]
    ) -> Iterator[Unresized]:
        if not indices:
            return
        assert self._nvjpeg is not None
        files = [np.asarray(images[index]) for index in indices]
        for index, file, pixels in zip(indices, files, self._nvjpeg.decoded(files), strict=True):
            if pixels is None:
                yield self._decoded_here(file, index, len(images))
            else:
                yield self._planar(pixels)

    def _planar(self, pixels: torch.Tensor) -> Unresized:
        height, width = self._pipeline.height, self._pipeline.width
        rows, columns = axis(pixels.shape[1], height), axis(pixels.shape[2], width)
        return Unresized(pixels, rows, columns, is_planar=True)

    def _decoded_here(self, file: Array, index: int, count: int) -> Unresized:
        try:
            image = self.prepare(self._decode_here(file.tobytes()))
        except Refused as refused:
            raise problem_error(index, count, refused.text) from refused
        assert isinstance(image, Unresized)
        return image

    def _flat(self, images: Sequence[Unresized]) -> torch.Tensor:
        """Return all pixels in one vector on the device."""
        here = [to_torch(image.pixels).view(-1) for image in images if not image.is_planar]
        parts = [image.pixels.reshape(-1) for image in images if image.is_planar]
        if here:
            parts.insert(0, self._sent(here))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _sent(self, vectors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the vectors as one, on the device."""
        together = self._host_memory(sum(map(len, vectors)), vectors[0].dtype)
        torch.cat(list(vectors), out=together)
        return together.to(self._device, non_blocking=True)

    def _resized(
        self, flat: torch.Tensor, images: Sequence[Unresized], starts: Sequence[int]
    ) -> torch.Tensor:
        """Return float32[N, height, 3 * width] in 0..255."""
        tables = [_positions(image, at) for image, at in zip(images, starts, strict=True)]
        fractions = [
            np.concatenate([image.rows.fraction, np.repeat(image.columns.fraction, RGB)])
            for image in images
        ]
        height, width = self._pipeline.height, self._pipeline.width * RGB
        sent = self._sent([torch.from_numpy(table) for table in tables]).view(len(images), -1)
        upper, lower, left, right = sent.split([height, height, width, width], 1)
        weights = self._sent([torch.from_numpy(each) for each in fractions]).view(len(images), -1)
        down, across = weights.split([height, width], 1)

        def between(rows: torch.Tensor) -> torch.Tensor:
            first = torch.take(flat, rows[:, :, None] + left[:, None]).float()
            second = torch.take(flat, rows[:, :, None] + right[:, None]).float()
            second -= first
            second *= across[:, None]
            second += first
            return second

        top, bottom = between(upper), between(lower)
        bottom -= top
        bottom *= down[:, :, None]
        bottom += top
        return bottom


def pinned(size: int, dtype: torch.dtype) -> torch.Tensor:
    """Return memory of the CPU that a GPU reads by itself."""
    return torch.empty(size, dtype=dtype, pin_memory=True)


def _left(data: bytes) -> Array:
    """Leave a JPEG to `Resizing.pixels`: return the file as uint8[bytes]."""
    return np.frombuffer(data, np.uint8)


def _pairs(one: Axis) -> Array:
    """Return the positions that are needed, each low one before its high one."""
    return np.stack([one.low, one.high], 1).reshape(-1)


def _of_pairs(one: Axis) -> Axis:
    """Return that axis for an image that holds only `_pairs`."""
    low = np.arange(0, 2 * len(one.low), 2)
    return Axis(low, low + 1, one.fraction)


def _size(image: Unresized) -> int:
    return int(image.pixels.numel() if image.is_planar else image.pixels.size)


def _positions(image: Unresized, start: int) -> Array:
    """Return int64[2 * height + 6 * width]: rows above and below, columns left and right.

    A value of the image lies where its row and its column, of one colour, add up to.
    """
    if image.is_planar:
        _, height, width = image.pixels.shape
        of_row, of_column, of_colour = width, 1, height * width
    else:
        of_row, of_column, of_colour = image.pixels.shape[1] * RGB, RGB, 1
    colours = np.arange(RGB) * of_colour
    rows = [start + side * of_row for side in image.rows[:2]]
    columns = [
        (side[:, np.newaxis] * of_column + colours).reshape(-1) for side in image.columns[:2]
    ]
    positions: Array = np.concatenate([*rows, *columns])
    return positions
