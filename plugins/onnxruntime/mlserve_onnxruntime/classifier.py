"""An ONNX image classifier: the model as a function of pixels, for the pipeline in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlserve.artifact import EXPORT_AGAIN, Artifact
from mlserve.backend import RunsOn
from mlserve.deadline import Deadline
from mlserve.errors import ModelLoadFailed
from mlserve.image_input import ImageInput
from mlserve.image_pipeline.steps import Array, ImageSteps
from mlserve.load_options import LoadOptions
from mlserve.pipeline import ImagePipeline
from mlserve.precision import Precision
from mlserve_onnxruntime.layout import described, image_spec, open_sizes
from mlserve_onnxruntime.sessions import Sessions, run_session


class PixelSessions:
    """The sessions of a classifier, as `mlserve.image_pipeline.steps.Forward`."""

    def __init__(self, artifact: Artifact, pipeline: ImagePipeline, sessions: Sessions) -> None:
        """Raise ModelLoadFailed when the file does not match the manifest's pipeline."""
        self._sessions = sessions
        self._input = _image_input(artifact, pipeline, sessions)
        self._output = sessions.outputs[0].name

    def __call__(self, pixels: Array, deadline: Deadline | None = None) -> Array:
        """Return float32[N, units]. Raises what `Sessions.run` raises."""
        pixels = self._input.arranged(pixels)
        size = self._input.batch or len(pixels)
        return np.concatenate(
            [
                self._run(pixels[start : start + size], deadline)
                for start in range(0, len(pixels), size)
            ]
        )

    def warm_up(self, black: Array) -> None:
        """Run each session once. Raises what `Sessions.run` raises."""
        for session in self._sessions.all:
            run_session(session, [self._output], {self._input.name: self._input.arranged(black)})

    @property
    def runs_on(self) -> RunsOn:
        """The version of ONNX Runtime, its precision and execution provider."""
        return self._sessions.runs_on

    def limit_threads(self, threads: int) -> None:
        """Let the calls from this thread use at most that many threads; 0 is all."""
        self._sessions.limit_threads(threads)

    def close(self) -> None:
        """Free the memory."""
        self._sessions.close()

    def _run(self, pixels: Array, deadline: Deadline | None) -> Array:
        (outputs,) = self._sessions.run([self._output], {self._input.name: pixels}, deadline)
        return outputs


def load_steps(artifact: Artifact, file: Path, options: LoadOptions) -> ImageSteps:
    """Load the steps of a classifier that mlserve exported. Raises ModelLoadFailed."""
    pipeline = artifact.manifest.pipeline if artifact.manifest else None
    if pipeline is None:
        raise ModelLoadFailed(
            f"{artifact.path} has no image pipeline: mlserve did not export it as a classifier",
            hint="export the model: mlserve export --backend onnxruntime",
        )
    precision = artifact.manifest.precision if artifact.manifest else Precision.FP32
    sessions = Sessions(file, options, precision)
    return ImageSteps(pipeline, PixelSessions(artifact, pipeline, sessions))


def _image_input(artifact: Artifact, pipeline: ImagePipeline, sessions: Sessions) -> ImageInput:
    inputs, outputs = sessions.inputs, sessions.outputs
    try:
        (only_input,), (only_output,) = inputs, outputs
        image = ImageInput.from_spec(image_spec(only_input), pipeline.preprocessing.depth)
        fits = image.fits(pipeline, open_sizes(only_output.shape))
        if image.batch not in (None, 1) or not fits:
            raise ValueError("its sizes differ")
    except ValueError as error:
        found = ", ".join(described(tensor) for tensor in (*inputs, *outputs))
        raise ModelLoadFailed(
            f"{artifact.path} holds a different model than its manifest says: {found}",
            hint=EXPORT_AGAIN,
        ) from error
    return image
