"""Convert an ONNX file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import openvino as ov

from mlserve.differences import Arrays
from mlserve.errors import InvalidInput, reason_of
from mlserve.sources import Classifier, Model
from mlserve_openvino.opening import core, name_of, plain
from mlserve_openvino.original import Original, cannot_convert

_ERRORS_ONLY = 3


def of_onnx(model: Model) -> Original:
    """Convert an ONNX file, or a ModelProto. Raises ExportError."""
    given = model.forward if isinstance(model, Classifier) else model.content
    if not isinstance(given, onnx.ModelProto):
        return _of_file(model, Path(str(given)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx.save(given, str(file))
        return _of_file(model, file)


def _of_file(model: Model, file: Path) -> Original:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        found = core().read_model(file)
    except Exception as error:  # the errors of ONNX Runtime have no common base
        raise cannot_convert(model, plain(error)) from error
    _keep_names(found, session)
    return Original("ONNX Runtime", found, lambda inputs: _run(session, inputs))


def _keep_names(found: ov.Model, session: Any) -> None:
    """Leave each input and output the one name that it has in the file."""
    for ports, tensors in (
        (found.inputs, session.get_inputs()),
        (found.outputs, session.get_outputs()),
    ):
        names = {tensor.name for tensor in tensors}
        for port in ports:
            own = names & port.get_names()
            port.get_tensor().set_names(own or {name_of(port)})


def _run(session: Any, inputs: Arrays) -> Arrays:
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception as error:  # the errors of ONNX Runtime have no common base
        raise InvalidInput(reason_of(error)) from error
