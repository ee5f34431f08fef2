"""A SavedModel for the conformance suite, with two signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf


def write_sample(into: Path) -> None:
    """Write the model: `serving_default` of numbers, `lengths` of strings."""
    module = tf.Module()
    numbers, texts = tf.TensorSpec([None, 2], tf.float32, "x"), tf.TensorSpec([None], tf.string)
    module.half = tf.function(_half, input_signature=[numbers])
    module.lengths = tf.function(_lengths, input_signature=[texts])
    signatures = {"serving_default": module.half, "lengths": module.lengths}
    tf.saved_model.save(module, str(into), signatures=signatures)


def _half(x: Any) -> dict[str, Any]:
    return {"y": x / 2}


def _lengths(text: Any) -> dict[str, Any]:
    return {"same": text, "length": tf.strings.length(text)}
