"""The shape in which every model reaches a backend: one `tf.Module`, float32 in and out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as image libraries turn colour into grey


class Forward(tf.Module):  # type: ignore[misc]
    """A model as backends call it: float32[N, height, width, 3] -> float32[N, units].

    `call` is the model; `tracked` is what holds its variables, so that saving this module saves
    them. A model of one channel gets the image in grey, another float type is converted.
    """

    def __init__(
        self, call: Callable[[Any], Any], tracked: Any, channels: int, dtype: Any = tf.float32
    ) -> None:
        super().__init__(name="classifier")
        self.call = call
        self.tracked = tracked
        self.channels = channels
        self.dtype = tf.as_dtype(dtype)

    def __call__(self, images: Any) -> Any:
        return tf.cast(self.call(self.prepared(images)), tf.float32)

    def prepared(self, images: Any) -> Any:
        """The images as the model itself takes them: its number of channels, its float type."""
        if self.channels == 1:
            images = tf.reduce_sum(images * tf.constant(_GREY_WEIGHTS), axis=-1, keepdims=True)
        return tf.cast(images, self.dtype)
