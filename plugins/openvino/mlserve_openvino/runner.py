"""Run any OpenVINO IR in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino as ov

from mlserve.artifact import Artifact
from mlserve.backend import Runner, RunsOn
from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput
from mlserve.image_pipeline.classifier import ImageClassifierRunner
from mlserve.load_options import LoadOptions
from mlserve.precision import Precision
from mlserve.special_numbers import require_answered
from mlserve.tensors import DType, Signature, TensorSpec
from mlserve_openvino.classifier import PixelInference
from mlserve_openvino.inference import Inference
from mlserve_openvino.opening import file_signature, load_failed, opened, refused_of

if TYPE_CHECKING:
    from mlserve.backend import Tensors

Array = np.ndarray[Any, Any]


class _Limit(NamedTuple):
    """What OpenVINO computes a type in, and the least and the most that holds."""

    name: str
    least: float
    most: float


_INT32, _FLOAT32 = np.iinfo(np.int32), np.finfo(np.float32)
_COMPUTED_IN: Mapping[DType, _Limit] = {
    DType.INT64: _Limit("int32", _INT32.min, _INT32.max),
    DType.UINT32: _Limit("int32", _INT32.min, _INT32.max),
    DType.UINT64: _Limit("int32", _INT32.min, _INT32.max),
    DType.FLOAT64: _Limit("float32", float(_FLOAT32.min), float(_FLOAT32.max)),
}
"""The types that OpenVINO makes narrower before it computes: what does not fit changes silently."""


def _changed(spec: TensorSpec, values: Array, is_out: Array, limit: _Limit) -> InvalidInput:
    place = tuple(int(at) for at in np.argwhere(is_out)[0])
    where = f" at {list(place)}" if place else ""
    return InvalidInput(
        f"input '{spec.name}' has {values[place]}{where}, which OpenVINO cannot compute with: it "
        f"computes {spec.dtype.label} in {limit.name}",
        hint="serve the model with another backend: `mlserve plugins` lists them",
    )


def load_runner(artifact: Artifact, file: Path, options: LoadOptions) -> Runner:
    """Load the model in `file`, with its image pipeline if mlserve exported it as a classifier.

    An IR that mlserve did not export runs in fp32. Raises ModelLoadFailed when OpenVINO cannot read
    it or it does not match its manifest.
    """
    manifest = artifact.manifest
    if manifest is not None and manifest.pipeline is not None:
        pipeline = manifest.pipeline
        return ImageClassifierRunner(
            artifact, pipeline, PixelInference(artifact, pipeline, file, options)
        )
    model = opened(file)
    signature = file_signature(str(file), model)
    precision = Precision.FP32 if manifest is None else manifest.precision
    try:
        return OpenVinoRunner(model, signature, options, precision)
    except RuntimeError as error:
        raise load_failed(file, error) from error


class OpenVinoRunner:
    """Any model in OpenVINO: one signature, with its inputs and outputs."""

    def __init__(
        self, model: ov.Model, signature: Signature, options: LoadOptions, precision: Precision
    ) -> None:
        """Compile the model. Raises RuntimeError."""
        self._inference = Inference(model, options, precision)
        self._refused = refused_of(model)
        self.signatures: Mapping[str, Signature] = {signature.name: signature}

    @property
    def runs_on(self) -> RunsOn:
        """The version of OpenVINO, its precision and device."""
        return self._inference.runs_on

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        """Return the outputs. Raises what `Inference.run` raises."""
        specs = self.signatures[signature]
        require_answered(self._refused, inputs, "OpenVINO")
        arrays = [self._prepared(spec, inputs[spec.name]) for spec in specs.inputs]
        (outputs,) = self._inference.run([arrays], deadline)
        return {spec.name: array for spec, array in zip(specs.outputs, outputs, strict=True)}

    def _prepared(self, spec: TensorSpec, values: Array) -> Array:
        """Return an input as OpenVINO takes it. Raises InvalidInput for what it would change."""
        limit = _COMPUTED_IN.get(spec.dtype)
        if limit is not None:
            is_out = (values < limit.least) | (values > limit.most)
            if is_out.any():
                raise _changed(spec, values, is_out, limit)
        array = np.asarray(values, order="C")
        return array if array.ndim else array.copy()  # it writes to a scalar of its own

    def limit_threads(self, threads: int) -> None:
        """Let the calls from this thread use at most that many threads; 0 is all."""
        self._inference.limit_threads(threads)

    def close(self) -> None:
        self._inference.close()
