"""Resize a batch of images on the device, bit for bit as `mlserve.image_pipeline.float_resizing`.

    files -> CPU threads: decode, into memory that the device reads -> one copy an image, still
    uint8 -> device, as part of the model's graph: resize, scale, model

All images of a batch are resized by the same few operations, whatever their sizes: tables of
positions say which of an image's bytes each result is made of, and they are inputs of the graph
like the bytes. The operations and their order are those of the CPU, each rounded on its own, so the
bits are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
import torch

from mlserve.image_pipeline.codec import Refused
from mlserve.image_pipeline.float_resizing import Array, Axis, axis
from mlserve.image_pipeline.jpeg import JpegDecoder, accurate
from mlserve.images import RGB, problem_error
from mlserve.pipeline import ImagePipeline
from mlserve.tensors import DType, TensorSpec
from mlserve_torch.device import CUDA
from mlserve_torch.program import Program, to_torch

_BYTES_KEPT = 4
"""Bytes of an image that are sent to the device, for each value of the result: its neighbours."""


class Table(NamedTuple):
    """How images of one size and layout are resized to the model's size, height x width.

    `positions` are int64[2 * height + 6 * width]: rows above and below, columns left and right. A
    value of the image lies where its row and its column, of one colour, add up to. `weights` are
    float32[height + 3 * width]: of the row below, and of the column on the right.
    """

    positions: Array
    weights: Array


class Unresized(NamedTuple):
    """The bytes of an image, uint8[...], on the CPU or on the device, and how to resize it."""

    pixels: torch.Tensor
    table: Table


class BatchDecoder(Protocol):
    """Decodes JPEG files on the device: `gpu_jpeg.NvJpeg`."""

    def decoded(self, files: Sequence[Array]) -> list[torch.Tensor | None]:
        """Return uint8[3, height, width] of each file, uint8[bytes]; None for a refused one."""


class Resizing:
    """The steps of a pipeline between decoding and the model, on a device.

    With `nvjpeg`, JPEGs are decoded there too, and `decode_here` decodes on the CPU those that it
    refuses.
    """

    def __init__(
        self,
        pipeline: ImagePipeline,
        device: torch.device,
        nvjpeg: BatchDecoder | None = None,
        decode_here: Callable[[bytes], Array] = accurate,
    ) -> None:
        self._size = pipeline.height, pipeline.width
        self._scale, self._offset = (
            float(np.float32(number)) for number in (pipeline.scale, pipeline.offset)
        )
        self._most_bytes = _BYTES_KEPT * pipeline.height * pipeline.width * RGB
        self._device = device
        self._is_cuda = device.type == CUDA
        # Copies have a stream of their own: they overlap with the model's run on another batch.
        self._stream = torch.cuda.Stream(device) if self._is_cuda else None
        self._copying = Lock()
        self._nvjpeg = nvjpeg
        self._decode_here = decode_here
        self.decoder: JpegDecoder = self._accurate if nvjpeg is None else _left

    def before(self, program: Program) -> Program:
        """Return the program of float32[N, height, width, 3] as one of `inputs`."""
        height, width = self._size
        positions, weights = 2 * (height + RGB * width), height + RGB * width

        def call(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            return program.call([self._resized(*tensors)])

        inputs = (
            TensorSpec("pixels", DType.UINT8, (None, self._most_bytes)),
            TensorSpec("positions", DType.INT64, (None, positions)),
            TensorSpec("weights", DType.FLOAT32, (None, weights)),
        )
        keeps_state = program.keeps_state
        return Program(call, inputs, program.outputs, program.rows, keeps_state=keeps_state)

    def prepare(self, image: Array) -> Unresized | Array:
        """Return the image as it is sent; a large one is reduced to the pixels that are needed.

        A file that nvJPEG is to decode is returned as it is, uint8[bytes].
        """
        if image.ndim == 1:
            return image
        size = image.shape[:2]
        if image.size <= self._most_bytes:
            there = to_torch(image)
            sent = there if there.is_pinned() else self._host_memory(image.shape).copy_(there)
            return Unresized(sent, _table(*size, *self._size))
        rows, columns = self._pairs(size)
        reduced = image.take(rows, axis=0)
        sent = self._host_memory((len(rows), len(columns), RGB))
        reduced.take(columns, axis=1, out=sent.numpy(), mode="clip")  # `raise` would copy once more
        return Unresized(sent, _table(*size, *self._size, is_reduced=True))

    def inputs(self, images: Sequence[Unresized | Array], span: range) -> list[torch.Tensor]:
        """Return the inputs of the program `before`, on the device, for those images of a call.

        Raises InvalidInput for a JPEG that neither nvJPEG nor the CPU can decode.
        """
        # One call at a time: nvJPEG writes on a stream of its own without waiting for this one,
        # where a kernel of another call could still read memory that its results have got since.
        with self._copying, torch.cuda.stream(self._stream):
            try:
                return self._inputs(self._decoded(images, span))
            finally:
                if self._stream is not None:
                    self._stream.synchronize()

    def _inputs(self, images: Sequence[Unresized]) -> list[torch.Tensor]:
        """Start to copy the bytes and the tables to the device."""
        pixels = torch.empty(len(images), self._most_bytes, dtype=torch.uint8, device=self._device)
        for row, image in zip(pixels.unbind(), images, strict=True):
            row[: image.pixels.numel()].copy_(image.pixels.view(-1), non_blocking=True)
        positions = self._sent([image.table.positions for image in images], torch.int64)
        weights = self._sent([image.table.weights for image in images], torch.float32)
        return [pixels, positions, weights]

    def _resized(
        self, pixels: torch.Tensor, positions: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Return float32[N, height, width, 3], scaled: the model's input."""
        height, width = self._size
        upper, lower, left, right = positions.split([height] * 2 + [width * RGB] * 2, 1)
        down, across = weights.split([height, width * RGB], 1)

        def at(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
            places = (rows[:, :, None] + columns[:, None]).flatten(1)
            return pixels.gather(1, places).float().view(-1, height, width * RGB)

        def between(rows: torch.Tensor) -> torch.Tensor:
            first, second = at(rows, left), at(rows, right)
            second -= first
            second *= across[:, None]
            second += first
            return second

        top, bottom = between(upper), between(lower)
        bottom -= top
        bottom *= down[:, :, None]
        bottom += top
        bottom *= self._scale
        bottom += self._offset
        return bottom.view(-1, height, width, RGB)

    def _accurate(self, data: bytes) -> Array:
        """Decode as `accurate` does: a small image straight into memory that the device reads."""
        return accurate(data, self._memory_for)

    def _memory_for(self, height: int, width: int) -> Array:
        size = height, width, RGB
        if math.prod(size) > self._most_bytes:
            return np.empty(size, np.uint8)
        memory: Array = self._host_memory(size).numpy()
        return memory

    def _host_memory(self, shape: Sequence[int], dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        """Return memory of the CPU that the device reads by itself."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=self._is_cuda)

    def _sent(self, rows: Sequence[Array], dtype: torch.dtype) -> torch.Tensor:
        """Return the rows as one tensor on the device."""
        together = self._host_memory((len(rows), len(rows[0])), dtype)
        np.stack(rows, out=together.numpy())
        return together.to(self._device, non_blocking=True)

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
        """Return uint8[3, height, width], on the device, as `prepare` does."""
        height, width = pixels.shape[1:]
        if pixels.numel() <= self._most_bytes:
            return Unresized(pixels, _table(height, width, *self._size, is_planar=True))
        rows, columns = (
            torch.from_numpy(pairs).to(self._device) for pairs in self._pairs((height, width))
        )
        reduced = pixels.index_select(1, rows).index_select(2, columns)
        table = _table(height, width, *self._size, is_planar=True, is_reduced=True)
        return Unresized(reduced, table)

    def _decoded_here(self, file: Array, index: int, count: int) -> Unresized:
        try:
            image = self.prepare(self._decode_here(file.tobytes()))
        except Refused as refused:
            raise problem_error(index, count, refused.text) from refused
        assert isinstance(image, Unresized)
        return image

    def _pairs(self, size: Sequence[int]) -> list[Array]:
        """Return the rows and columns that are needed, each low one before its high one."""
        axes = (axis(length, wanted) for length, wanted in zip(size, self._size, strict=True))
        return [np.stack([one.low, one.high], 1).reshape(-1) for one in axes]


def _left(data: bytes) -> Array:
    """Leave a JPEG to `Resizing.inputs`: return the file as uint8[bytes]."""
    return np.frombuffer(data, np.uint8)


@lru_cache(maxsize=256)
def _table(
    height: int,
    width: int,
    to_height: int,
    to_width: int,
    *,
    is_planar: bool = False,
    is_reduced: bool = False,
) -> Table:
    """Return the table for images of that size: uint8[height, width, 3], or [3, height, width].

    A reduced image holds only the pixels that are needed (`Resizing._pairs`).
    """
    rows, columns = axis(height, to_height), axis(width, to_width)
    if is_reduced:
        height, width = 2 * to_height, 2 * to_width
        rows, columns = _of_pairs(rows), _of_pairs(columns)
    of_row, of_column, of_colour = (
        (width, 1, height * width) if is_planar else (width * RGB, RGB, 1)
    )
    colours = np.arange(RGB) * of_colour
    sides = [
        (side[:, np.newaxis] * of_column + colours).reshape(-1)
        for side in (columns.low, columns.high)
    ]
    positions = np.concatenate([rows.low * of_row, rows.high * of_row, *sides])
    return Table(positions, np.concatenate([rows.fraction, np.repeat(columns.fraction, RGB)]))


def _of_pairs(one: Axis) -> Axis:
    """Return that axis for an image that holds only the pixels that are needed."""
    low = np.arange(0, 2 * len(one.low), 2)
    return Axis(low, low + 1, one.fraction)
