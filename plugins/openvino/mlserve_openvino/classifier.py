"""An image classifier: OpenVINO's model as a function of pixels, for the pipeline in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov

from mlserve.artifact import EXPORT_AGAIN, Artifact
from mlserve.backend import RunsOn
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, ModelLoadFailed
from mlserve.image_input import ImageInput
from mlserve.image_pipeline.steps import Array, ImageSteps
from mlserve.load_options import LoadOptions
from mlserve.pipeline import ImagePipeline
from mlserve.precision import Precision
from mlserve_openvino.inference import Inference
from mlserve_openvino.opening import described, image_spec, load_failed, open_sizes, opened


class PixelInference:
    """A classifier's model, as `mlserve.image_pipeline.steps.Forward`.

    It is compiled for one image, and a batch runs as one call for each, side by side. That takes
    less time than an open batch size, whose first run of every new size is slow, and the answer of
    an image does not depend on the images beside it.
    """

    def __init__(
        self, artifact: Artifact, pipeline: ImagePipeline, file: Path, options: LoadOptions
    ) -> None:
        """Raise ModelLoadFailed when the file does not load or match the manifest's pipeline."""
        model = opened(file)
        self._input = _image_input(artifact, pipeline, model)
        self._units = 1 if pipeline.activation.is_binary else pipeline.classes
        precision = Precision.FP32 if artifact.manifest is None else artifact.manifest.precision
        try:
            model.reshape(list(self._input.arranged(_black(pipeline)).shape))
            self._inference = Inference(model, options, precision)
        except RuntimeError as error:
            raise load_failed(file, error) from error

    @property
    def runs_on(self) -> RunsOn:
        """The version of OpenVINO, its precision and device."""
        return self._inference.runs_on

    def __call__(self, pixels: Array, deadline: Deadline | None = None) -> Array:
        """Return float32[N, units]. Raises what `Inference.run` raises."""
        pixels = self._input.arranged(pixels)
        calls = [[pixels[index : index + 1]] for index in range(len(pixels))]
        scores = np.concatenate([only for (only,) in self._inference.run(calls, deadline)])
        if scores.shape != (len(pixels), self._units):
            raise InferenceFailed(
                f"OpenVINO gave scores of shape {list(scores.shape)} for {len(pixels)} images and "
                f"{self._units} outputs",
                hint="unset ONEDNN_MAX_CPU_ISA if it is set, or export the model in fp32",
            )
        return scores

    def warm_up(self, black: Array) -> None:
        """Run each width once. Raises what `Inference.run` raises."""
        for compiled in self._inference.all:
            compiled.run([[self._input.arranged(black)]], 1, None)
        self(black)  # which looks at the shape of the scores

    def limit_threads(self, threads: int) -> None:
        """Let the calls from this thread use at most that many threads; 0 is all."""
        self._inference.limit_threads(threads)

    def close(self) -> None:
        """Free the memory."""
        self._inference.close()


def load_steps(artifact: Artifact, file: Path, options: LoadOptions) -> ImageSteps:
    """Load the steps of a classifier that mlserve exported. Raises ModelLoadFailed."""
    pipeline = artifact.manifest.pipeline if artifact.manifest else None
    if pipeline is None:
        raise ModelLoadFailed(
            f"{artifact.path} has no image pipeline: mlserve did not export it as a classifier",
            hint="export the model: mlserve export --backend openvino",
        )
    return ImageSteps(pipeline, PixelInference(artifact, pipeline, file, options))


def _black(pipeline: ImagePipeline) -> Array:
    return np.zeros((1, *pipeline.size, pipeline.preprocessing.depth), np.float32)


def _image_input(artifact: Artifact, pipeline: ImagePipeline, model: ov.Model) -> ImageInput:
    inputs, outputs = model.inputs, model.outputs
    try:
        (only_input,), (only_output,) = inputs, outputs
        image = ImageInput.from_spec(image_spec(only_input), pipeline.preprocessing.depth)
        fits = image.fits(pipeline, open_sizes(only_output))
        if image.batch not in (None, 1) or not fits:
            raise ValueError("its sizes differ")
    except ValueError as error:
        raise ModelLoadFailed(
            f"{artifact.path} holds a different model than its manifest says: "
            f"{described([*inputs, *outputs])}",
            hint=EXPORT_AGAIN,
        ) from error
    return image
