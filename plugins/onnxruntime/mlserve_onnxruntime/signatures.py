"""Signatures of ONNX models, and how their tensors cross from mlserve to ONNX Runtime and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlserve.errors import InvalidInput, ModelLoadFailed
from mlserve.pipeline import ImagePipeline
from mlserve.tensors import DType, Signature, TensorSpec
from mlserve_onnxruntime.layout import described, open_sizes

_log = logging.getLogger(__name__)

_DTYPES = {
    "float": DType.FLOAT32,
    "double": DType.FLOAT64,
    "float16": DType.FLOAT16,
    "string": DType.BYTES,
    "bool": DType.BOOL,
    **{
        dtype.label: dtype
        for dtype in (
            *(DType.INT8, DType.INT16, DType.INT32, DType.INT64),
            *(DType.UINT8, DType.UINT16, DType.UINT32, DType.UINT64),
        )
    },
}
"""Element types by ONNX Runtime's names: all that its Python API takes as numpy arrays."""
DEFAULT = "serving_default"
RANKING = "ranking"
"""All classes in the order of their scores."""


def image_signatures(pipeline: ImagePipeline) -> tuple[Signature, ...]:
    """The signatures of an exported image classifier, the same on every backend."""
    image = (TensorSpec("image", DType.BYTES, (None,)),)
    label = (TensorSpec("output_0", DType.BYTES, (None,)),)
    count = min(pipeline.top_k, pipeline.scored_classes)
    return (
        Signature(DEFAULT, image, label),
        Signature("top_k", image, _classes(count)),
        Signature(RANKING, image, _classes(pipeline.scored_classes)),
    )


def file_signature(path: Path, inputs: Sequence[Any], outputs: Sequence[Any]) -> Signature:
    """The one signature of any ONNX file: its inputs and outputs.

    An output that no protocol can carry (a sequence, a map) is left out with a warning. Raises
    ModelLoadFailed for such an input, and when no output is left.
    """
    refused = [tensor for tensor in inputs if _dtype(tensor) is None]
    if refused:
        raise ModelLoadFailed(
            f"{path} cannot be served: its input {described(refused[0])} is no tensor that can be "
            "sent",
            hint="save a model whose inputs are tensors",
        )
    specs = []
    for tensor in outputs:
        if _dtype(tensor) is None:
            _log.warning("%s: the output %s is left out", path, described(tensor))
        else:
            specs.append(_spec(tensor))
    if not specs:
        raise ModelLoadFailed(
            f"{path} has no output that can be sent: {', '.join(map(described, outputs))}",
            hint="save a model whose outputs are tensors (of scikit-learn: zipmap=False)",
        )
    return Signature(DEFAULT, tuple(map(_spec, inputs)), tuple(specs))


def to_runtime(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An input as ONNX Runtime takes it: its strings are text. Raises InvalidInput."""
    if array.dtype != object:
        return array
    try:
        texts = [value.decode() for value in array.flat]
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"input '{name}' has bytes that are no UTF-8 text, which ONNX Runtime cannot take",
            hint="send text, or give the model a uint8 input",
        ) from error
    return _objects(texts, array.shape)


def from_runtime(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An output as mlserve gives it: its strings are bytes."""
    if array.dtype.kind not in "OU":
        return array
    return _objects([str(value).encode() for value in array.flat], array.shape)


def _objects(values: Sequence[object], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def _classes(count: int) -> tuple[TensorSpec, ...]:
    """The outputs that give `count` classes of each image."""
    return (
        TensorSpec("indices", DType.INT32, (None, count)),
        TensorSpec("labels", DType.BYTES, (None, count)),
        TensorSpec("scores", DType.FLOAT32, (None, count)),
    )


def _spec(tensor: Any) -> TensorSpec:
    dtype = _dtype(tensor)
    if dtype is None:
        raise ValueError(f"{described(tensor)} is no tensor")
    return TensorSpec(tensor.name, dtype, open_sizes(tensor.shape))


def _dtype(tensor: Any) -> DType | None:
    return _DTYPES.get(tensor.type.removeprefix("tensor(").removesuffix(")"))
