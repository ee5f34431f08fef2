"""The image pipeline in Python, around an ONNX model: file bytes in, scores out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlserve.artifact import Artifact, Manifest
from mlserve.deadline import Deadline
from mlserve.errors import ModelLoadFailed
from mlserve.images import problem_error
from mlserve.pipeline import ImagePipeline
from mlserve_onnxruntime.image_file import decoded_image
from mlserve_onnxruntime.layout import ImageInput, described, open_sizes
from mlserve_onnxruntime.refusal import Refused
from mlserve_onnxruntime.resize import resized
from mlserve_onnxruntime.scores import activated, require_finite
from mlserve_onnxruntime.sessions import Sessions, run_session

Array = np.ndarray[Any, Any]


class ImageSteps:
    """An exported classifier, step by step; fit for several threads at once."""

    def __init__(self, artifact: Artifact, manifest: Manifest, sessions: Sessions) -> None:
        """Raises ModelLoadFailed when the file is not what the manifest says."""
        self._pipeline = manifest.pipeline
        self._sessions = sessions
        self._input = _image_input(artifact, manifest.pipeline, sessions)
        self._output = sessions.outputs[0].name

    def decoded(self, image: bytes) -> Array:
        """uint8[height, width, 3] in its own size; upright where EXIF is applied.

        Raises InvalidInput.
        """
        try:
            return decoded_image(image, self._pipeline.limits, self._pipeline.exif)
        except Refused as refused:
            raise problem_error(0, 1, refused.text) from refused

    def resized(self, image: bytes) -> Array:
        """float32[height, width, 3]: the model's input. Raises InvalidInput."""
        pixels: Array = self.pixels([image], None)[0]
        return pixels

    def scores(self, image: bytes) -> Array:
        """float32[classes]. Raises InvalidInput."""
        scores: Array = self.batch_scores([image], None)[0]
        return scores

    def pixels(self, images: Sequence[bytes], deadline: Deadline | None) -> Array:
        """float32[N, height, width, 3], the model's input; an image that repeats is decoded once.

        Raises InvalidInput that names the first bad image, and DeadlineExceeded.
        """
        pipeline = self._pipeline
        limits = pipeline.limits
        pixels = np.empty((len(images), pipeline.height, pipeline.width, 3), np.float32)
        for index, image in enumerate(images):
            if index and image == images[index - 1]:
                pixels[index] = pixels[index - 1]
                continue
            if deadline is not None:
                deadline.require("decoding the images")
            try:
                decoded = decoded_image(image, limits, pipeline.exif, deadline)
            except Refused as refused:
                raise problem_error(index, len(images), refused.text) from refused
            values = resized(decoded, pipeline.height, pipeline.width)
            values *= np.float32(pipeline.scale)
            np.add(values, np.float32(pipeline.offset), out=pixels[index])
        return pixels

    def batch_scores(self, images: Sequence[bytes], deadline: Deadline | None) -> Array:
        """float32[N, classes], all of them finite.

        Raises what `pixels` and `Sessions.run` raise, and InferenceFailed for other scores.
        """
        if not len(images):
            return np.empty((0, self._pipeline.scored_classes), np.float32)
        pixels = self._input.arranged(self.pixels(images, deadline))
        size = self._input.batch or len(pixels)
        outputs = [
            self._run(pixels[start : start + size], deadline)
            for start in range(0, len(pixels), size)
        ]
        return require_finite(activated(np.concatenate(outputs), self._pipeline.activation))

    def warm_up(self) -> None:
        """Runs each session once, on black.

        Raises what `Sessions.run` raises.
        """
        black = np.zeros((1, self._pipeline.height, self._pipeline.width, 3), np.float32)
        for session in self._sessions.all:
            run_session(session, [self._output], {self._input.name: self._input.arranged(black)})

    def _run(self, pixels: Array, deadline: Deadline | None) -> Array:
        (outputs,) = self._sessions.run([self._output], {self._input.name: pixels}, deadline)
        return outputs


def _image_input(artifact: Artifact, pipeline: ImagePipeline, sessions: Sessions) -> ImageInput:
    inputs, outputs = sessions.inputs, sessions.outputs
    try:
        (only_input,), (only_output,) = inputs, outputs
        image = ImageInput.of(only_input)
        if not _fits(image, only_output, pipeline):
            raise ValueError("its sizes are others")
    except ValueError as error:
        found = ", ".join(described(tensor) for tensor in (*inputs, *outputs))
        raise ModelLoadFailed(
            f"{artifact.path} holds another model than its manifest says: {found}",
            hint="export the model again: mlserve export; remove this version if it is not wanted",
        ) from error
    return image


def _fits(image: ImageInput, output: Any, pipeline: ImagePipeline) -> bool:
    columns = 1 if pipeline.activation.is_binary else pipeline.classes
    return (
        image.batch in (None, 1)
        and image.height in (None, pipeline.height)
        and image.width in (None, pipeline.width)
        and (open_sizes(output.shape) or ())[1:] in ((columns,), (None,))
    )
