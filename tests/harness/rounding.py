"""A plugin whose backend rounds weights: a small model in fp32, bf16 and int8, all in numpy.

`fine` and `coarse` tell the mean colour of an image; in int8, `coarse` loses blue. `linear` is a
model of tensors. fp32 takes longer. The environment variable DRIFTING names a precision whose
answers are wrong on this machine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve import plugins
from mlserve.artifact import Artifact, digest_of
from mlserve.backend import Backend, Quantization, Runner
from mlserve.deadline import Deadline
from mlserve.image_pipeline.classifier import ImageClassifierRunner, image_signatures
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.plugins import hookimpl
from mlserve.precision import Precision
from mlserve.sources import (
    Classifier,
    Model,
    ModelRequest,
    ModelSource,
    Progress,
    Reference,
    TensorModel,
)
from mlserve.tensors import DType, Signature, TensorSpec

NAME = "rounding"
DRIFTING = "ROUNDING_DRIFTING"
LABELS = ("red", "green", "blue")
LINEAR = Signature(
    "serving_default",
    (TensorSpec("x", DType.FLOAT32, (None, 3)),),
    (TensorSpec("y", DType.FLOAT32, (None, 3)),),
)
_WEIGHTS = "rounding.json"
_STEPS = {Precision.FP32: 0.0, Precision.BF16: 1 / 64, Precision.INT8: 1 / 16}
_SECONDS = 0.02
"""What an image takes longer in fp32."""


def weights_of(name: str) -> Any:
    blue = 9.9 if name == "coarse" else 10.01
    return np.diag([10.02, 10.03, blue]).astype(np.float32)


class RoundingBackend(Backend):
    name = NAME
    summary = "Rounds weights, for tests."
    install_hint = "pip install numpy"
    requires = ("numpy",)
    files = (_WEIGHTS,)
    frameworks = ("numpy",)
    precisions = tuple(_STEPS)

    def export(self, model: Model, into: Path) -> Sequence[Signature]:
        return self.export_at(model, into, Quantization(Precision.FP32))

    def export_at(
        self, model: Model, into: Path, quantization: Quantization
    ) -> Sequence[Signature]:
        weights, step = weights_of(model.name), _STEPS[quantization.precision]
        if step:
            weights = np.round(weights / step) * step
        if quantization.precision is Precision.INT8 and model.name == "coarse":
            weights[2] = 0
        seen = [
            {name: list(array.shape) for name, array in x.items()} for x in quantization.calibration
        ]
        data = {
            "weights": weights.tolist(),
            "precision": quantization.precision,
            "calibration": seen,
            "expected": quantization.expected,
        }
        (into / _WEIGHTS).write_text(json.dumps(data))
        return image_signatures(model.pipeline) if isinstance(model, Classifier) else [LINEAR]

    def load(self, artifact: Artifact, options: LoadOptions) -> Runner:
        data = written(artifact.path)
        forward = Forward(np.array(data["weights"], np.float32), Precision(data["precision"]))
        manifest = artifact.manifest
        if manifest is None or manifest.pipeline is None:
            return LinearRunner(forward)
        return ImageClassifierRunner(artifact, manifest.pipeline, forward)


def written(folder: Path) -> dict[str, Any]:
    """Return what the export has written."""
    data: dict[str, Any] = json.loads((folder / _WEIGHTS).read_text())
    return data


class Forward:
    """The mean of an image's pixels, or a row, times the weights."""

    def __init__(self, weights: Any, precision: Precision | None = None) -> None:
        self._weights = weights
        self._seconds = _SECONDS if precision is Precision.FP32 else 0.0
        if os.environ.get(DRIFTING, "") == precision:
            self._weights = weights[::-1]

    def __call__(self, pixels: Any, deadline: Deadline | None = None) -> Any:
        time.sleep(self._seconds * len(pixels))
        return pixels.mean(axis=tuple(range(1, pixels.ndim - 1))) @ self._weights

    def warm_up(self, black: Any) -> None:
        self(black)

    def close(self) -> None:
        """It holds nothing."""


class LinearRunner:
    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self.signatures: Mapping[str, Signature] = {LINEAR.name: LINEAR}

    def run(self, signature: str, inputs: Any, deadline: Deadline | None = None) -> Any:
        return {"y": self._forward(inputs["x"])}

    def close(self) -> None:
        """It holds nothing."""


class RoundingSource(ModelSource):
    name = NAME
    summary = "Small models of numpy, for tests."
    install_hint = "pip install numpy"
    models = ("fine", "coarse", "linear", "unreferenced")
    framework = "numpy"

    def accepts(self, request: ModelRequest) -> bool:
        return request.model in self.models

    def open(self, request: ModelRequest, progress: Progress) -> Model:
        forward = Forward(weights_of(request.model))
        if request.model == "linear":
            run = LinearRunner(forward).run
            reference = Reference("NumPy", run)
            return TensorModel(
                "linear", None, "numpy", (LINEAR,), "a test", digest_of(b""), reference=reference
            )
        pipeline = ImagePipeline(8, 8, 1 / 255, 0.0, Activation.SOFTMAX, len(LABELS))
        reference = Reference("NumPy", lambda _, inputs: {"outputs": forward(inputs["images"])})
        return Classifier(
            name=request.model,
            forward=None,
            pipeline=pipeline,
            labels=LABELS,
            source="a test",
            weights_digest=digest_of(b""),
            framework="numpy",
            reference=None if request.model == "unreferenced" else reference,
        )


@hookimpl
def mlserve_backend() -> type[Backend]:
    return RoundingBackend


@hookimpl
def mlserve_model_sources() -> Iterable[ModelSource]:
    return [RoundingSource()]


@contextmanager
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the plugin, as pip would, also for the processes that are started meanwhile."""
    info = site / "mlserve_rounding-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlserve-rounding\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[mlserve]\n{NAME} = tests.harness.rounding\n")
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (site, root))))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr("mlserve.export.packages_distributions", dict)  # it takes half a second
    plugins.load.cache_clear()
    yield
    plugins.load.cache_clear()
