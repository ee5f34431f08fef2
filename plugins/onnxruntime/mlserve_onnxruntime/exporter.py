"""Writes a classifier as `model.onnx`: the float tensors only, the pipeline is in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mlserve.backend import LoadOptions
from mlserve.errors import ExportError, MlserveError
from mlserve.sources import Classifier
from mlserve.tensors import Signature
from mlserve_onnxruntime.external_data import whole_model
from mlserve_onnxruntime.messages import plain
from mlserve_onnxruntime.sessions import Sessions
from mlserve_onnxruntime.signatures import image_signatures

TOLERANCE = 1e-4
"""How far the outputs may be from TensorFlow's, relative to the largest of them."""
_LARGEST = 2**31 - 1
"""The bytes that a protobuf message, and so one ONNX file, can have."""

_NOT_OURS = "export it for --backend tfserving"


def write_tensorflow(model: Classifier, file: Path) -> Sequence[Signature]:
    """Converts the model, writes it, and has it answer as TensorFlow does; its signatures.

    Raises ExportError when it cannot be converted or gives other numbers.
    """
    from mlserve_onnxruntime.conversion import converted, seeded_images

    proto, function = converted(model)
    _write(model, proto, file, _NOT_OURS)
    _check_same_answer(model, file, seeded_images(model), function)
    return image_signatures(model.pipeline)


def write_onnx_file(model: Classifier, file: Path) -> Sequence[Signature]:
    """Writes the user's own ONNX file, with the weights that lie beside it; its signatures.

    Raises ExportError for a file that breaks the rules of ONNX.
    """
    hint = "write the file again with the tool that made it"
    given = model.forward
    proto = given if isinstance(given, onnx.ModelProto) else whole_model(Path(str(given)))
    _write(model, proto, file, hint)
    return image_signatures(model.pipeline)


def _write(model: Classifier, proto: Any, file: Path, hint: str) -> None:
    if proto.ByteSize() > _LARGEST:
        raise ExportError(
            f"the model {model.name} has {proto.ByteSize() / 2**30:.1f} GiB, more than one ONNX "
            "file can hold (2 GiB)",
            hint="take a smaller model, or export it for --backend tfserving",
        )
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            f"the ONNX model {model.name} is not valid: {plain(error)}",
            hint=hint,
        ) from error
    onnx.save(proto, str(file))


def _check_same_answer(
    model: Classifier, file: Path, images: Any, function: Callable[[Any], Any]
) -> None:
    theirs = function(images)
    try:
        sessions = Sessions(file, LoadOptions(provider="cpu"))
        feeds = {sessions.inputs[0].name: images}
        (ours,) = sessions.run([sessions.outputs[0].name], feeds, None)
    except MlserveError as error:
        raise ExportError(
            f"ONNX Runtime does not run the exported {model.name}: {error.message}",
            hint=_NOT_OURS,
        ) from error
    if not np.isfinite(theirs).all():
        raise ExportError(
            f"the model {model.name} gives outputs that are not finite numbers for random images",
            hint="check the weights, and the range of the pixels (--scale)",
        )
    difference = float(np.abs(ours - theirs).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(theirs).max())):
        raise ExportError(
            f"the exported {model.name} differs from TensorFlow's by {difference:.2g} on a test "
            f"image, more than {TOLERANCE:g}",
            hint="export it for --backend tfserving; please report it with the model",
        )
