"""Run any ONNX model with ONNX Runtime in this process."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve.artifact import Artifact
from mlserve.backend import Runner, RunsOn, require_one_length
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, InvalidInput, ModelLoadFailed
from mlserve.image_pipeline.classifier import ImageClassifierRunner
from mlserve.load_options import LoadOptions
from mlserve.precision import Precision
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from mlserve_onnxruntime.classifier import PixelSessions
from mlserve_onnxruntime.layout import described, open_sizes
from mlserve_onnxruntime.refused_numbers import RefusedNumbers
from mlserve_onnxruntime.sessions import Sessions

if TYPE_CHECKING:
    from mlserve.backend import Tensors


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
"""Element types by ONNX Runtime's names: those its Python API exchanges as numpy arrays."""


def file_signature(path: Path, inputs: Sequence[Any], outputs: Sequence[Any]) -> Signature:
    """Return the only signature of an ONNX file: its inputs and outputs.

    An output that no protocol can carry (a sequence, a map) is left out with a warning. Raises
    ModelLoadFailed for such an input, and when no output is left.
    """
    refused = [tensor for tensor in inputs if _dtype(tensor) is None]
    if refused:
        raise ModelLoadFailed(
            f"{path} cannot be served: its input {described(refused[0])} is not a tensor that "
            "can be sent",
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
    return Signature(DEFAULT_SIGNATURE, tuple(map(_spec, inputs)), tuple(specs))


def to_runtime(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Convert an input for ONNX Runtime, which takes strings as text. Raises InvalidInput."""
    if array.dtype != object:
        return array
    try:
        texts = [value.decode() for value in array.flat]
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"input '{name}' has bytes that are not UTF-8 text, which ONNX Runtime cannot take",
            hint="send text, or give the model a uint8 input",
        ) from error
    return _objects(texts, array.shape)


def from_runtime(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Convert an output of ONNX Runtime, whose strings become bytes."""
    if array.dtype.kind not in "OU":
        return array
    return _objects([str(value).encode() for value in array.flat], array.shape)


def _objects(values: Sequence[object], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def _spec(tensor: Any) -> TensorSpec:
    dtype = _dtype(tensor)
    if dtype is None:
        raise ValueError(f"{described(tensor)} is not a tensor")
    return TensorSpec(tensor.name, dtype, open_sizes(tensor.shape))


def _dtype(tensor: Any) -> DType | None:
    return _DTYPES.get(tensor.type.removeprefix("tensor(").removesuffix(")"))


def load_runner(artifact: Artifact, file: Path, options: LoadOptions) -> Runner:
    """Load and warm up the ONNX model in `file`, with its image pipeline if mlserve exported it.

    Raises ModelLoadFailed when ONNX Runtime cannot read it or it does not match its manifest.
    """
    precision = artifact.manifest.precision if artifact.manifest else Precision.FP32
    sessions = Sessions(file, options, precision)
    pipeline = artifact.manifest.pipeline if artifact.manifest else None
    if pipeline is None:
        signature = file_signature(file, sessions.inputs, sessions.outputs)
        return OnnxRunner(sessions, signature, RefusedNumbers(artifact, sessions.metadata))
    return ImageClassifierRunner(artifact, pipeline, PixelSessions(artifact, pipeline, sessions))


class OnnxRunner:
    """Any ONNX model: one signature, with the inputs and outputs of the file."""

    judges_shapes = True

    def __init__(
        self, sessions: Sessions, signature: Signature, refused: RefusedNumbers | None = None
    ) -> None:
        self._sessions = sessions
        self._refused = refused
        self.signatures: Mapping[str, Signature] = {signature.name: signature}

    @property
    def runs_on(self) -> RunsOn:
        """The version of ONNX Runtime, its precision and execution provider."""
        return self._sessions.runs_on

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        """Return the outputs. Raises what `Sessions.run` raises."""
        names = [spec.name for spec in self.signatures[signature].outputs]
        if self._refused is not None:
            self._refused.check(inputs)
        feeds = {name: to_runtime(name, array) for name, array in inputs.items()}
        try:
            outputs = self._sessions.run(names, feeds, deadline)
        except InferenceFailed:  # such as of the node that joins columns of a table
            require_one_length(inputs)
            raise
        return {name: from_runtime(array) for name, array in zip(names, outputs, strict=True)}

    def limit_threads(self, threads: int) -> None:
        """Let the calls from this thread use at most that many threads; 0 is all."""
        self._sessions.limit_threads(threads)

    def close(self) -> None:
        self._sessions.close()
