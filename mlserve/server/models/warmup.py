"""The first run of a model, made before it gets requests: it is slow, and shows a broken model."""

from __future__ import annotations

import logging

import numpy as np  # noqa: TID253

from mlserve.artifact import Artifact
from mlserve.backend import Runner
from mlserve.errors import InferenceFailed, ModelLoadFailed, reason_of
from mlserve.images import tiny_png
from mlserve.server.dtypes import NUMPY, Array
from mlserve.server.input_check import DEFAULT_SIGNATURE
from mlserve.tensors import DType, Signature, TensorSpec

_log = logging.getLogger(__name__)


def warm_up(artifact: Artifact, runner: Runner) -> None:
    """Runs the model once.

    A model of ours answers an image with each of its signatures, or ModelLoadFailed is raised. Of
    any other model the default signature is run on zeros: what it makes of them is logged only.
    """
    if artifact.manifest is None:
        _warm_foreign(runner)
        return
    for signature in artifact.manifest.signatures:
        try:
            runner.run(signature.name, _inputs(signature, tiny_png()))
        except Exception as error:
            raise ModelLoadFailed(
                f"version {artifact.version} does not answer its first request: {reason_of(error)}",
                hint="export the model again",
            ) from error


def _warm_foreign(runner: Runner) -> None:
    names = sorted(runner.signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name))
    for name in names[:1]:
        try:
            runner.run(name, _inputs(runner.signatures[name], b""))
        except Exception as error:  # noqa: BLE001 - zeros need not be an input that it takes
            level = logging.WARNING if isinstance(error, InferenceFailed) else logging.INFO
            _log.log(level, "the warm-up run of %r with zeros gave: %s", name, error)


def _inputs(signature: Signature, text: bytes) -> dict[str, Array]:
    return {spec.name: _filler(spec, text) for spec in signature.inputs}


def _filler(spec: TensorSpec, text: bytes) -> Array:
    shape = (
        (1,) if spec.shape is None else tuple(1 if size is None else size for size in spec.shape)
    )
    if spec.dtype is DType.BYTES:
        return np.full(shape, text, dtype=object)
    return np.zeros(shape, NUMPY[spec.dtype])
