"""Write an OpenVINO IR, after it has given the answers of the model's own framework in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import openvino as ov

from mlserve.backend import Quantization
from mlserve.differences import different_output
from mlserve.errors import ExportError, MlserveError
from mlserve.image_pipeline.classifier import image_signatures
from mlserve.load_options import LoadOptions
from mlserve.precision import Precision
from mlserve.probe import Trial, tried
from mlserve.sources import Classifier, Model
from mlserve.special_numbers import changed_specials
from mlserve.tensors import Signature
from mlserve_openvino.opening import file_signature, note_refused
from mlserve_openvino.original import Original, cannot_convert
from mlserve_openvino.runner import OpenVinoRunner

TOLERANCE = 1e-4
"""The allowed difference from the framework's outputs in fp32, relative to the largest of each."""


def write_ir(model: Model, file: Path, quantization: Quantization) -> Sequence[Signature]:
    """Convert the model, check it, quantise it for int8, and write it; return its signatures.

    Raises ExportError when it cannot be converted or gives other numbers.
    """
    original = _converted(model)
    signature, refused = _checked(model, original)
    written = original.model
    if quantization.precision is Precision.INT8:
        from mlserve_openvino.quantizing import quantized

        written = quantized(model, written, quantization)
    note_refused(written, refused)
    ov.save_model(written, file, compress_to_fp16=False)
    return image_signatures(model.pipeline) if isinstance(model, Classifier) else (signature,)


def _converted(model: Model) -> Original:
    """Let the module of the model's framework, which imports that, convert the model."""
    module = import_module(f"mlserve_openvino.{model.framework}_conversion")
    found: Original = getattr(module, f"of_{model.framework}")(model)
    return found


def _checked(model: Model, original: Original) -> tuple[Signature, Sequence[str]]:
    """Return the signature, once the conversion has given the framework's answers.

    The kinds of numbers come with it that it answers otherwise (`mlserve.special_numbers`).
    """
    try:
        signature = file_signature(model.name, original.model)
        runner = OpenVinoRunner(original.model, signature, LoadOptions(instances=1), Precision.FP32)
    except (MlserveError, RuntimeError) as error:
        raise cannot_convert(model, str(error)) from error
    trial = tried(signature, original.run)
    if isinstance(trial, str):
        raise ExportError(
            f"the exported {model.name} cannot be compared with {original.framework}, which "
            f"refuses made-up inputs: {trial}",
            hint="export it with another backend: `mlserve plugins` lists them",
        )
    trials = [trial]
    if signature.has_rows:  # another size of batch
        one = {name: array[:1] for name, array in trial.inputs.items()}
        trials.append(Trial(one, original.run(one)))
    for each in trials:
        _require_same(model, original.framework, runner, each)
    refused = changed_specials(
        trial.inputs, original.run, lambda inputs: runner.run(signature.name, inputs), TOLERANCE
    )
    return signature, refused


def _require_same(model: Model, framework: str, runner: OpenVinoRunner, trial: Trial) -> None:
    (signature,) = runner.signatures
    try:
        found = runner.run(signature, trial.inputs)
    except MlserveError as error:
        raise cannot_convert(model, error.message) from error
    differing = different_output(trial.outputs, found, TOLERANCE)
    if differing:
        raise ExportError(
            f"the output {differing} of the exported {model.name} differs from {framework}'s for "
            f"made-up inputs, by more than {TOLERANCE:g} of the largest",
            hint="export it with another backend, and please report it with the model",
        )
