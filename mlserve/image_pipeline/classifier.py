"""An image classifier as a Runner: image files in, labels out, around any model of pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve.artifact import EXPORT_AGAIN, Artifact
from mlserve.backend import Batching, LimitsThreads, RunsOn
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, ModelLoadFailed, Overloaded
from mlserve.image_pipeline.steps import (
    DEFAULT_DECODING,
    Decoding,
    Forward,
    ImageSteps,
    ResizingForward,
    best,
)
from mlserve.pipeline import RANKING, ImagePipeline
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec

if TYPE_CHECKING:
    from mlserve.backend import Tensors


def image_signatures(pipeline: ImagePipeline) -> tuple[Signature, ...]:
    """Return the signatures of an exported image classifier, the same on every backend."""
    image = (TensorSpec("image", DType.BYTES, (None,)),)
    label = (TensorSpec("output_0", DType.BYTES, (None,)),)
    count = min(pipeline.top_k, pipeline.scored_classes)
    return (
        Signature(DEFAULT_SIGNATURE, image, label),
        Signature("top_k", image, _classes(count)),
        Signature(RANKING, image, _classes(pipeline.scored_classes)),
    )


def _classes(count: int) -> tuple[TensorSpec, ...]:
    """Return the outputs for `count` classes of each image."""
    return (
        TensorSpec("indices", DType.INT32, (None, count)),
        TensorSpec("labels", DType.BYTES, (None, count)),
        TensorSpec("scores", DType.FLOAT32, (None, count)),
    )


class ImageClassifierRunner:
    """A classifier that mlserve exported: image files in, labels out."""

    def __init__(
        self,
        artifact: Artifact,
        pipeline: ImagePipeline,
        forward: Forward | ResizingForward,
        decoding: Decoding = DEFAULT_DECODING,
    ) -> None:
        """Raise ModelLoadFailed when the files do not match the manifest."""
        self._forward = forward
        self._limits_threads = forward if isinstance(forward, LimitsThreads) else None
        self._steps = ImageSteps(pipeline, forward, decoding)
        self._labels = _labels(artifact, pipeline)
        self._count = min(pipeline.top_k, pipeline.scored_classes)
        self.signatures: Mapping[str, Signature] = _checked_signatures(artifact, pipeline)
        try:
            self._steps.warm_up()
        except MlserveError as error:
            raise ModelLoadFailed(
                f"the first run of {artifact.path} fails: {error.message}", hint=EXPORT_AGAIN
            ) from error

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        """Return the labels, the best classes, or all of them in order.

        Raises InvalidInput naming the first bad image, InferenceFailed for scores that are not
        finite, and what the model raises.
        """
        with _enough_memory():
            scores = self._steps.batch_scores(list(inputs["image"]), deadline)
        return self._answers(signature, scores)

    @property
    def takes_pixels(self) -> bool:
        """Whether `pixels` and `run_on_pixels` do what `run` does, in two steps."""
        return self._steps.takes_pixels

    def pixels(self, inputs: Tensors, deadline: Deadline | None = None) -> np.ndarray[Any, Any]:
        """Return the images prepared for the model, float32[N, height, width, depth].

        Raises what `run` raises for bad images.
        """
        with _enough_memory():
            return self._steps.pixels(list(inputs["image"]), deadline)

    def run_on_pixels(
        self, signature: str, pixels: np.ndarray[Any, Any], deadline: Deadline | None = None
    ) -> Tensors:
        """Return what `run` returns, for images that `pixels` has prepared."""
        with _enough_memory():
            scores = self._steps.scores_of_pixels(pixels, deadline)
        return self._answers(signature, scores)

    def _answers(self, signature: str, scores: np.ndarray[Any, Any]) -> Tensors:
        if signature == DEFAULT_SIGNATURE:
            return {"output_0": self._labels[scores.argmax(axis=1)]}
        count = scores.shape[1] if signature == RANKING else self._count
        highest, indices = best(scores, count)
        return {"labels": self._labels[indices], "scores": highest, "indices": indices}

    def limit_threads(self, threads: int) -> None:
        """Let the model's calls from this thread use at most that many threads; 0 is any number."""
        if self._limits_threads is not None:
            self._limits_threads.limit_threads(threads)

    @property
    def batching(self) -> Batching | None:
        """How the model likes requests to be run together."""
        return getattr(self._forward, "batching", None)

    @property
    def runs_on(self) -> RunsOn | None:
        """What runs the model, if it says so."""
        return getattr(self._forward, "runs_on", None)

    def close(self) -> None:
        self._steps.close()


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Turn a lack of memory for the images into Overloaded."""
    try:
        yield
    except MemoryError as error:
        raise Overloaded(
            "not enough memory to decode the images",
            hint="send smaller requests, or give the server more memory",
        ) from error


def _labels(artifact: Artifact, pipeline: ImagePipeline) -> np.ndarray[Any, Any]:
    try:
        texts = pipeline.full_labels(artifact.labels())
    except MlserveError as error:
        raise ModelLoadFailed(error.message, hint=error.hint) from error
    return np.array([text.encode() for text in texts], dtype=object)


def _checked_signatures(artifact: Artifact, pipeline: ImagePipeline) -> dict[str, Signature]:
    """Return the pipeline's signatures; earlier exports promise a subset of them."""
    signatures = image_signatures(pipeline)
    manifest = artifact.manifest
    if manifest is not None and not set(manifest.signatures) <= set(signatures):
        raise ModelLoadFailed(
            f"{artifact.path} holds a different model than its manifest says", hint=EXPORT_AGAIN
        )
    return {signature.name: signature for signature in signatures}
