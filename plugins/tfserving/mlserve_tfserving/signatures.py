"""The signatures of TensorFlow functions as mlserve's `Signature`."""

from __future__ import annotations

from typing import Any

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


def _specs(tensors: dict[str, Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(key, DType.from_tf_number(tensor.dtype.as_datatype_enum), shape_of(tensor.shape))
        for key, tensor in sorted(tensors.items())
    )


def shape_of(shape: Any) -> tuple[int | None, ...] | None:
    """The sizes of a TensorShape; None when its rank is unknown."""
    return None if shape.rank is None else tuple(shape.as_list())
