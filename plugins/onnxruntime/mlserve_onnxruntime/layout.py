"""The inputs and outputs of an ONNX file, as ONNX Runtime describes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlserve.tensors import DType, TensorSpec


def image_spec(tensor: Any) -> TensorSpec:
    """Return an input as a spec for `ImageInput`; of other types than float32, without a shape."""
    sizes = open_sizes(tensor.shape) if tensor.type == "tensor(float)" else None
    return TensorSpec(tensor.name, DType.FLOAT32, sizes)


def open_sizes(shape: Sequence[Any]) -> tuple[int | None, ...] | None:
    """Return a shape with None for each open size, which has a name or no value in the file.

    Returns None for an unknown rank, which ONNX Runtime does not distinguish from a scalar.
    """
    if not shape:
        return None
    return tuple(size if isinstance(size, int) else None for size in shape)


def described(tensor: Any) -> str:
    """Format an input or output for a message: `images float[N,224,224,3]`."""
    kind = tensor.type.removeprefix("tensor(").removesuffix(")")
    sizes = ",".join("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.name} {kind}[{sizes}]"
