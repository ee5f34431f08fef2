"""The steps of an exported SavedModel, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mlserve.artifact import Artifact
from mlserve.backend import ImageStages
from mlserve.errors import ModelLoadFailed
from mlserve.load_options import LoadOptions
from mlserve.system import usable_cpus
from mlserve_tfserving.loading import load_model
from mlserve_tfserving.runner import bad_scores, refusal, set_threads

Array = np.ndarray[Any, Any]

_STEPS = ("decoded", "pixels", "scores")


def load_stages(artifact: Artifact, options: LoadOptions) -> ImageStages:
    """Return the steps of the SavedModel in `artifact.path`. Raises ModelLoadFailed."""
    threads = options.threads or usable_cpus()
    set_threads(threads)
    module = load_model(artifact.path, threads, allow_unsafe_ops=options.allow_unsafe_ops).owner
    if not all(hasattr(module, name) for name in _STEPS):
        raise ModelLoadFailed(
            f"{artifact.path} does not show the steps of its pipeline",
            hint="export the model again with this mlserve: mlserve export",
        )
    return SavedModelStages(module)


class SavedModelStages:
    """The functions exported beside the signatures, run by TensorFlow."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def decoded(self, image: bytes) -> Array:
        """Return uint8[height, width, 3] from the graph's decoder. Raises InvalidInput."""
        pixels: Array = self._step("decoded", tf.constant(image))
        return pixels

    def resized(self, image: bytes) -> Array:
        """Return float32[height, width, 3]: the model's input. Raises InvalidInput."""
        pixels: Array = self._step("pixels", tf.constant([image]))[0]
        return pixels

    def scores(self, image: bytes) -> Array:
        """Return float32[classes]. Raises InvalidInput; InferenceFailed if they are not finite."""
        scores: Array = self._step("scores", tf.constant([image]))[0]
        return scores

    def _step(self, name: str, argument: tf.Tensor) -> Any:
        try:
            return getattr(self._module, name)(argument).numpy()
        except tf.errors.InvalidArgumentError as error:
            raise bad_scores(error, 1) or refusal(error, 0, 1) from error
