"""Read TensorFlow's SignatureDef messages.

Duck-typed over TensorFlow's own classes and those of `mlserve.wire.proto`, which are the same
messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlserve.tensors import DType, Signature, TensorSpec, method_of


def read_signature(name: str, definition: Any) -> Signature:
    """Return the signature that a SignatureDef describes, its inputs and outputs by name.

    Raises ValueError for one without outputs, such as an initializer, for an element type that
    cannot be transmitted, such as a resource, and for a sparse or composite tensor.
    """
    if not definition.outputs:
        raise ValueError("it has no outputs")
    return Signature(
        name,
        _specs(definition.inputs),
        _specs(definition.outputs),
        frozenset(definition.defaults) & set(definition.inputs),
        method_of(definition.method_name),
    )


def _specs(infos: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(name, info) for name, info in sorted(infos.items()))


def _spec(name: str, info: Any) -> TensorSpec:
    """Return the spec of a TensorInfo. A missing shape means unknown, not a scalar."""
    if info.WhichOneof("encoding") not in ("name", None):  # servers need not send the name
        raise ValueError(f"{name} is not one tensor, but a sparse or composite one")
    dtype = DType.from_tf_number(info.dtype)
    shape = info.tensor_shape
    if not info.HasField("tensor_shape") or shape.unknown_rank:
        return TensorSpec(name, dtype, None)
    return TensorSpec(name, dtype, tuple(None if dim.size < 0 else dim.size for dim in shape.dim))
