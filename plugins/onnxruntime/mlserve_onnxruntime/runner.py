"""Runs any ONNX model with ONNX Runtime in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve.artifact import Artifact, Manifest
from mlserve.backend import LoadOptions, Runner
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, ModelLoadFailed, Overloaded
from mlserve.tensors import Signature
from mlserve_onnxruntime.scores import best
from mlserve_onnxruntime.sessions import Sessions
from mlserve_onnxruntime.signatures import (
    DEFAULT,
    RANKING,
    file_signature,
    from_runtime,
    image_signatures,
    to_runtime,
)
from mlserve_onnxruntime.steps import ImageSteps

if TYPE_CHECKING:
    from mlserve.backend import Tensors

_EXPORT_AGAIN = "export the model again: mlserve export; remove this version if it is not wanted"


def load_runner(artifact: Artifact, file: Path, options: LoadOptions) -> Runner:
    """The ONNX model in `file`, with its image pipeline if mlserve exported it, warmed up.

    Raises ModelLoadFailed when ONNX Runtime cannot read it or it is not what its manifest says.
    """
    sessions = Sessions(file, options)
    if artifact.manifest is None:
        signature = file_signature(file, sessions.inputs, sessions.outputs)
        return OnnxRunner(sessions, signature)
    return ImageClassifierRunner(sessions, artifact, artifact.manifest)


def load_steps(artifact: Artifact, file: Path, options: LoadOptions) -> ImageSteps:
    """The steps of the classifier that mlserve exported. Raises ModelLoadFailed."""
    if artifact.manifest is None:
        raise ModelLoadFailed(
            f"{artifact.path} was not exported by mlserve: it has no image pipeline",
            hint="export the model: mlserve export --backend onnxruntime",
        )
    return ImageSteps(artifact, artifact.manifest, Sessions(file, options))


class OnnxRunner:
    """Any ONNX model: one signature, with the inputs and outputs of the file."""

    judges_shapes = True

    def __init__(self, sessions: Sessions, signature: Signature) -> None:
        self._sessions = sessions
        self.signatures: Mapping[str, Signature] = {signature.name: signature}

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        """The outputs. Raises what `Sessions.run` raises."""
        names = [spec.name for spec in self.signatures[signature].outputs]
        feeds = {name: to_runtime(name, array) for name, array in inputs.items()}
        outputs = self._sessions.run(names, feeds, deadline)
        return {name: from_runtime(array) for name, array in zip(names, outputs, strict=True)}

    def close(self) -> None:
        self._sessions.close()


class ImageClassifierRunner:
    """A classifier that mlserve exported: image files in, labels out."""

    def __init__(self, sessions: Sessions, artifact: Artifact, manifest: Manifest) -> None:
        """Raises ModelLoadFailed when the files are not what the manifest says."""
        self._sessions = sessions
        self._steps = ImageSteps(artifact, manifest, sessions)
        self._labels = _labels(artifact, manifest)
        self._count = min(manifest.pipeline.top_k, manifest.pipeline.scored_classes)
        self.signatures: Mapping[str, Signature] = _checked_signatures(artifact, manifest)
        try:
            self._steps.warm_up()
        except MlserveError as error:
            raise ModelLoadFailed(
                f"the first run of {artifact.path} fails: {error.message}", hint=_EXPORT_AGAIN
            ) from error

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        """The labels, the best classes, or all of them in order.

        Raises InvalidInput that names the first bad image, InferenceFailed for scores that are not
        finite, and what `Sessions.run` raises.
        """
        try:
            scores = self._steps.batch_scores(list(inputs["image"]), deadline)
        except MemoryError as error:
            raise Overloaded(
                "not enough memory to decode the images",
                hint="send less at once, or give the server more memory",
            ) from error
        if signature == DEFAULT:
            return {"output_0": self._labels[scores.argmax(axis=1)]}
        count = scores.shape[1] if signature == RANKING else self._count
        highest, indices = best(scores, count)
        return {"labels": self._labels[indices], "scores": highest, "indices": indices}

    def close(self) -> None:
        self._sessions.close()


def _labels(artifact: Artifact, manifest: Manifest) -> np.ndarray[Any, Any]:
    try:
        texts = manifest.pipeline.full_labels(artifact.labels())
    except MlserveError as error:
        raise ModelLoadFailed(error.message, hint=error.hint) from error
    return np.array([text.encode() for text in texts], dtype=object)


def _checked_signatures(artifact: Artifact, manifest: Manifest) -> dict[str, Signature]:
    """What the pipeline gives; earlier exports promise fewer signatures, which are among them."""
    signatures = image_signatures(manifest.pipeline)
    if not set(manifest.signatures) <= set(signatures):
        raise ModelLoadFailed(
            f"{artifact.path} holds another model than its manifest says", hint=_EXPORT_AGAIN
        )
    return {signature.name: signature for signature in signatures}
