"""Work on a large image strip by strip, so that no copy of it in a wider type is ever whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Strip = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""Takes the first position and their number, int32 scalars; returns uint8[number, values]."""


def in_strips(strip: Strip, length: tf.Tensor, most: Any) -> tf.Tensor:
    """Return uint8[length, values], computed at most `most` positions at a time.

    `length` is a positive int32 scalar, `most` an int or int32 scalar.
    """
    count = tf.minimum(most, length)
    strips = (length + count - 1) // count
    # All strips are of the same length: the last one overlaps the one before it.
    found = tf.map_fn(
        lambda number: strip(tf.minimum(number * count, length - count), count),
        tf.range(strips),
        fn_output_signature=tf.TensorSpec([None, None], tf.uint8),
    )
    places = tf.range(length)
    repeated = strips * count - length
    places = tf.where(places < (strips - 1) * count, places, places + repeated)
    return tf.gather(tf.reshape(found, [strips * count, -1]), places)
