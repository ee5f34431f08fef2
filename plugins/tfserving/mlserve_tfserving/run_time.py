"""Keep TensorFlow's optimizer from arithmetic that changes the last bit of a result.

Grappler turns a division by a constant into a multiplication by its reciprocal, `1 / x` into an
operation that is not exact for float32, and puts constants of several operations together: `(x + 1)
- 2` becomes `x - 1`.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def at_run_time(constant: Any, length: tf.Tensor) -> tf.Tensor:
    """Return the constant as a result of the run, of which the optimizer knows nothing.

    `length` is an int32 scalar that is not known before, and positive.
    """
    value = tf.convert_to_tensor(constant)
    return tf.where(length > 0, value, tf.zeros_like(value))
