"""The signatures of TensorFlow functions, and of a SavedModel's file, as mlserve's `Signature`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from mlserve.tensors import DType, Signature, TensorSpec


def signature_of(name: str, function: Any) -> Signature:
    """The signature of a concrete function with named inputs and outputs.

    Raises ValueError for an element type that cannot cross the wire, such as a resource.
    """
    _, inputs = function.structured_input_signature
    if not inputs:  # traced with positional arguments
        inputs = {spec.name: spec for spec in function.structured_input_signature[0]}
    outputs = function.structured_outputs
    return Signature(name, _specs(inputs), _specs(outputs))


def signature_defined(name: str, definition: Any) -> Signature:
    """The signature that a SignatureDef describes. Raises ValueError, as `signature_of`."""
    if not definition.outputs:
        raise ValueError("it has no outputs")
    inputs, outputs = _defined(definition.inputs), _defined(definition.outputs)
    return Signature(name, inputs, outputs, frozenset(definition.defaults) & set(definition.inputs))


def shape_of(shape: Any) -> tuple[int | None, ...] | None:
    """The sizes of a TensorShape; None when its rank is unknown."""
    return None if shape.rank is None else tuple(shape.as_list())


def _specs(tensors: dict[str, Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(key, DType.from_tf_number(tensor.dtype.as_datatype_enum), shape_of(tensor.shape))
        for key, tensor in sorted(tensors.items())
    )


def _defined(infos: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    return tuple(_tensor_spec(name, info) for name, info in sorted(infos.items()))


def _tensor_spec(name: str, info: Any) -> TensorSpec:
    """The spec of a TensorInfo. One without a shape says nothing of it, not that it is a scalar."""
    if not info.name:
        raise ValueError(f"{name} is not one tensor, but a sparse or composite one")
    has_shape = info.HasField("tensor_shape")
    shape = shape_of(tf.TensorShape(info.tensor_shape)) if has_shape else None
    return TensorSpec(name, DType.from_tf_number(info.dtype), shape)
