"""Write a classifier as a SavedModel with the whole pipeline in its graph."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlserve.errors import ExportError, MlserveError
from mlserve.images import SCORE_PROBLEM
from mlserve.sources import Classifier
from mlserve.tensors import DEFAULT_SIGNATURE, Signature
from mlserve_tfserving.graph import ImageClassifier
from mlserve_tfserving.loading import plain, signature_of
from mlserve_tfserving.warmup import write_requests

SIGNATURES = (DEFAULT_SIGNATURE, "top_k", "ranking")


def write_saved_model(model: Classifier, into: Path) -> Sequence[Signature]:
    """Write the SavedModel of `model` and its warm-up requests; return its signatures.

    Before anything is written, every signature is tried on a small image. Raises ExportError when
    the model does not do what its pipeline says, and OSError (ENOSPC) when the disk is full.
    """
    try:
        module = ImageClassifier(model)
        functions = {name: getattr(module, name).get_concrete_function() for name in SIGNATURES}
        image = _small_image()
        _check_answers(model, functions, image)
        tf.saved_model.save(module, str(into), signatures=functions)
        write_requests(into, model.name, SIGNATURES, image)
    except tf.errors.OpError as error:
        raise _not_written(model, into, error) from error
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"the model {model.name} cannot be put into a graph: {type(error).__name__}: "
            f"{plain(str(error))}",
            hint="the model must take float32[N, "
            f"{model.pipeline.height}, {model.pipeline.width}, "
            f"{model.pipeline.preprocessing.depth}] and give float32[N, classes]",
        ) from error
    return tuple(signature_of(name, function) for name, function in functions.items())


def _small_image() -> bytes:
    """Return a 64x48 JPEG with all colours in it."""
    ramp = np.linspace(0, 255, 64 * 48 * 3).astype(np.uint8).reshape(48, 64, 3)
    data: bytes = tf.io.encode_jpeg(ramp).numpy()
    return data


def _check_answers(model: Classifier, functions: dict[str, Any], image: bytes) -> None:
    """Run each signature on one image. Raises ExportError for an implausible answer."""
    images = tf.constant([image])
    try:
        label = functions[DEFAULT_SIGNATURE](images)["output_0"].numpy()
        best = {name: value.numpy() for name, value in functions["top_k"](images).items()}
        first = functions["ranking"](images)["labels"].numpy()[0, 0]
    except tf.errors.InvalidArgumentError as error:
        found = SCORE_PROBLEM.search(str(error.message))
        if found is None:
            raise
        raise ExportError(
            f"the model {model.name} cannot be exported: for a test image, {found[0]}",
            hint="check the weights, and the range of the pixels (--scale)",
        ) from error
    known = {text.encode() for text in model.pipeline.full_labels(model.labels)}
    answers = {*label, best["labels"][0, 0], first}
    if label.shape != (1,) or len(answers) != 1 or label[0] not in known:
        raise ExportError(
            f"the signatures of {model.name} disagree: {label}, {best['labels']}, {first}",
            hint="this is a fault of mlserve: please report it with the model",
        )


def _not_written(model: Classifier, into: Path, error: Any) -> MlserveError | OSError:
    message = plain(str(error.message))
    if os.strerror(errno.ENOSPC) in str(error.message) or _is_full(into):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(into))
    return ExportError(
        f"TensorFlow cannot export {model.name}: {message}",
        hint="check --input-size and the weights",
    )


def _is_full(folder: Path) -> bool:
    free = os.statvfs(folder)
    return free.f_bavail * free.f_frsize < _ALMOST_NOTHING


_ALMOST_NOTHING = 64 * 1024
