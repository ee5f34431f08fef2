"""Write `model.onnx`, and check it as ONNX's own rules do. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from mlserve.errors import ExportError
from mlserve.image_pipeline.classifier import image_signatures
from mlserve.sources import Model, TensorModel
from mlserve.tensors import Signature
from mlserve_onnxruntime.external_data import whole_model
from mlserve_onnxruntime.opening import plain

_LARGEST = 2**31 - 1
"""The maximum bytes of a protobuf message, and so of one ONNX file."""


def write_onnx_file(model: Model, file: Path) -> Sequence[Signature]:
    """Write the user's own ONNX file, including the weights beside it; return its signatures.

    Raises ExportError for a file that breaks the rules of ONNX.
    """
    hint = "write the file again with the tool that made it"
    if isinstance(model, TensorModel):
        write_model(model.name, whole_model(Path(str(model.content))), file, hint)
        return model.signatures
    given = model.forward
    proto = given if isinstance(given, onnx.ModelProto) else whole_model(Path(str(given)))
    write_model(model.name, proto, file, hint)
    return image_signatures(model.pipeline)


def write_model(name: str, proto: Any, file: Path, hint: str) -> None:
    """Write a ModelProto. Raises ExportError with that hint if it is not valid or too large."""
    if proto.ByteSize() > _LARGEST:
        raise ExportError(
            f"the model {name} has {proto.ByteSize() / 2**30:.1f} GiB, more than one ONNX "
            "file can hold (2 GiB)",
            hint="take a smaller model, or export it for --backend tfserving",
        )
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            f"the ONNX model {name} is not valid: {plain(error)}", hint=hint
        ) from error
    onnx.save(proto, str(file))
