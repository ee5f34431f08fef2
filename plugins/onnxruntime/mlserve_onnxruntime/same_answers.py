"""Check that a model of tensors, converted to ONNX, answers as it does in its own framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlserve.differences import Arrays, different_output
from mlserve.errors import ExportError, MlserveError
from mlserve.load_options import LoadOptions
from mlserve.probe import Trial, tried
from mlserve.special_numbers import changed_specials
from mlserve.tensors import Signature
from mlserve_onnxruntime.refused_numbers import note_refused
from mlserve_onnxruntime.runner import OnnxRunner, file_signature
from mlserve_onnxruntime.sessions import Sessions

TOLERANCE = 1e-4
"""The allowed difference from the framework's outputs, relative to the largest of each.

For estimators it is that of each score, relative to the score where that is above 1.
"""


@dataclass(frozen=True)
class Original:
    """The model in its own framework: `run` gives its outputs, and raises MlserveError.

    `hint` says what to do about a conversion that is not exact.
    """

    framework: str
    name: str
    signature: Signature
    run: Callable[[Arrays], Arrays]
    hint: str


def checked_signatures(original: Original, file: Path) -> tuple[Signature, ...]:
    """Return the signature of the ONNX file, once it has given the original's answers.

    Raises ExportError if it does not load, cannot be tried, or gives other answers.
    """
    try:
        sessions = Sessions(file, LoadOptions(provider="cpu", instances=1))
        runner = OnnxRunner(sessions, file_signature(file, sessions.inputs, sessions.outputs))
    except MlserveError as error:
        raise ExportError(
            f"the exported {original.name} does not load: "
            + error.message.replace(f"{file.parent}/", ""),
            hint=original.hint,
        ) from error
    trial = tried(original.signature, original.run)
    if isinstance(trial, str):
        raise ExportError(
            f"the exported {original.name} cannot be compared with {original.framework}, which "
            f"refuses made-up inputs: {trial}",
            hint=original.hint,
        )
    trials = [trial]
    if original.signature.has_rows:  # another size of batch
        one = {name: array[:1] for name, array in trial.inputs.items()}
        trials.append(Trial(one, original.run(one)))
    for each in trials:
        _require_same(original, runner, each)
    (found,) = runner.signatures
    refused = changed_specials(
        trial.inputs, original.run, lambda inputs: runner.run(found, inputs), TOLERANCE
    )
    if refused:
        note_refused(file, refused)
    return tuple(runner.signatures.values())


def _require_same(original: Original, runner: OnnxRunner, trial: Trial) -> None:
    (signature,) = runner.signatures
    try:
        found = runner.run(signature, trial.inputs)
    except MlserveError as error:
        raise ExportError(
            f"ONNX Runtime does not run the exported {original.name}: {error.message}",
            hint=original.hint,
        ) from error
    differing = different_output(trial.outputs, found, TOLERANCE)
    if differing:
        raise ExportError(
            f"the output {differing} of the exported {original.name} differs from "
            f"{original.framework}'s for made-up inputs, by more than {TOLERANCE:g} of the largest",
            hint=f"{original.hint}; please report it with the model",
        )
