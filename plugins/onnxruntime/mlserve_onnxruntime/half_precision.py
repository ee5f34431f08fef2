"""Rewrite an ONNX file in fp16, for providers that compute in it."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from mlserve.errors import ExportError, reason_of
from mlserve.sources import Model
from mlserve_onnxruntime.onnx_writer import write_model

_HINT = "leave --precision out"


def write_half(model: Model, file: Path) -> None:
    """Rewrite the file with fp16 weights and operations; inputs and outputs keep their types.

    Raises ExportError for a model that ONNX Runtime's own converter cannot rewrite.
    """
    try:
        half = ONNXModel(convert_float_to_float16(onnx.load(str(file)), keep_io_types=True))
        half.topological_sort()  # the converter puts its casts of inputs last
    except Exception as error:  # it has no common error
        raise ExportError(
            f"ONNX Runtime cannot rewrite {model.name} in fp16: {reason_of(error)}", hint=_HINT
        ) from error
    write_model(model.name, half.model, file, _HINT)
