"""What an image costs to decode, told in the graph as `mlserve.images` tells it in Python.

Decoders of TensorFlow cannot be stopped, and what a real TensorFlow Serving does before them is
this and nothing else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlserve.images import (
    COEFFICIENT_BYTES,
    JPEG_MAGIC,
    MAX_PACKED_TEXTS,
    PACKED_TEXTS,
    PNG_HEADER_BYTES,
    PNG_LARGEST_DEPTH,
    PNG_SAMPLES,
    PNG_START,
    PROGRESSIVE,
    RGB,
    SCAN,
    ImageLimits,
    Problem,
)

_MOST_PIECES = 1000
"""Scans and texts that are told apart; a file of more is over any limit on them."""


class Cost(NamedTuple):
    """As `mlserve.images.ImageCost`: tensors of int64; `size` is height and width."""

    size: tf.Tensor
    samples: tf.Tensor
    scans: tf.Tensor
    packed_texts: tf.Tensor


def no_cost() -> Cost:
    """The cost of what is no image: it is within all limits."""
    return Cost(_numbers(1, 1), *tf.unstack(_numbers(0, 0, 0)))


def cost_in_file(data: tf.Tensor) -> Cost:
    """The cost of a JPEG or PNG file; a size of zeros where there is no whole header."""
    is_jpeg = tf.equal(tf.strings.substr(data, 0, len(JPEG_MAGIC)), JPEG_MAGIC)
    return Cost(*tf.cond(is_jpeg, lambda: _cost_of_jpeg(data), lambda: _cost_of_png(data)))


def excess_in_graph(cost: Cost, limits: ImageLimits) -> tuple[tf.Tensor, tf.Tensor]:
    """The code of the Problem, NONE for an image within all limits, and the detail behind it."""
    pixels = tf.reduce_prod(cost.size)
    decode_bytes = RGB * pixels + cost.samples
    size = _joined(cost.size[1], "x", cost.size[0])
    large, costly = Problem.TOO_LARGE, Problem.TOO_COSTLY
    # Each line wins over those above it: the first of `ImageCost.excess` is the last here.
    lines = (
        (
            decode_bytes > limits.max_decode_bytes,
            costly,
            _joined(decode_bytes, f" bytes, at most {limits.max_decode_bytes}"),
        ),
        (
            cost.packed_texts > MAX_PACKED_TEXTS,
            costly,
            f"more than {MAX_PACKED_TEXTS} packed texts",
        ),
        (cost.scans > limits.max_scans, costly, f"more than {limits.max_scans} scans"),
        (pixels > limits.max_pixels, large, _joined(size, f", at most {limits.max_pixels} pixels")),
        (
            tf.reduce_max(cost.size) > limits.max_side,
            large,
            _joined(size, f", at most {limits.max_side} pixels on each side"),
        ),
    )
    problem, detail = tf.constant(Problem.NONE.code, tf.int32), tf.constant("")
    for is_over, kind, text in lines:
        problem = tf.where(is_over, tf.constant(kind.code, tf.int32), problem)
        detail = tf.where(is_over, _joined(" (", text, ")"), detail)
    return problem, detail


def _cost_of_jpeg(data: tf.Tensor) -> Cost:
    shape = tf.cast(tf.io.extract_jpeg_shape(data), tf.int64)
    size, components = shape[:2], shape[2]
    scans = _split(data, SCAN)
    parts = tf.io.decode_raw(
        tf.strings.substr(tf.strings.join([scans[1:], b"\xff\xff"]), 1, 1), tf.uint8
    )
    is_in_parts = tf.reduce_any(tf.cast(parts, tf.int64) < components)
    is_progressive = tf.reduce_any([tf.size(_split(data, kind)) > 1 for kind in PROGRESSIVE])
    held = COEFFICIENT_BYTES * components * tf.reduce_prod(size)
    is_held = tf.logical_or(is_in_parts, is_progressive)
    samples = tf.where(is_held, held, tf.constant(0, tf.int64))
    return Cost(size, samples, _count(scans), tf.constant(0, tf.int64))


def _cost_of_png(data: tf.Tensor) -> Cost:
    def read() -> Cost:
        numbers = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
        size = tf.reverse(tf.cast(tf.ensure_shape(numbers, [2]), tf.int64), [0])
        kind = tf.strings.substr(tf.strings.join([data, b"\0\0"]), PNG_HEADER_BYTES, 2)
        depth, colour = tf.unstack(tf.ensure_shape(tf.io.decode_raw(kind, tf.uint8), [2]))
        depth = tf.minimum(tf.cast(depth, tf.int64), PNG_LARGEST_DEPTH)
        colour = tf.minimum(tf.cast(colour, tf.int32), len(PNG_SAMPLES) - 1)
        bits = tf.gather(_numbers(*PNG_SAMPLES), colour) * depth
        texts = tf.add_n([_count(_split(data, kind)) for kind in PACKED_TEXTS])
        return Cost(size, tf.reduce_prod(size) * bits // 8, tf.constant(0, tf.int64), texts)

    is_whole = tf.strings.length(data) >= PNG_HEADER_BYTES
    start = tf.strings.substr(data, 0, len(PNG_START))
    has_header = tf.logical_and(is_whole, tf.equal(start, PNG_START))
    return Cost(*tf.cond(has_header, read, lambda: no_cost()._replace(size=_numbers(0, 0))))


def _split(data: tf.Tensor, separator: bytes) -> tf.Tensor:
    """The parts of the file between these bytes; the last one is all the rest."""
    parts: tf.Tensor = tf.raw_ops.StringSplitV2(
        input=[data], sep=separator, maxsplit=_MOST_PIECES
    ).values
    return parts


def _count(parts: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.size(parts), tf.int64) - 1


def _joined(*parts: Any) -> tf.Tensor:
    """The texts and numbers as one text."""
    return tf.strings.join(
        [
            tf.strings.as_string(part)
            if tf.is_tensor(part) and part.dtype != tf.string
            else tf.convert_to_tensor(part)
            for part in parts
        ]
    )


def _numbers(*values: int) -> tf.Tensor:
    return tf.constant(values, tf.int64)
