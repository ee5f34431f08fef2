"""An exported ONNX classifier, run without mlserve's server: decode, resize, model, label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from mlserve.artifact import Artifact
from mlserve.image_input import ImageInput
from mlserve.image_pipeline.steps import Array, ImageSteps
from mlserve.tensors import DType, TensorSpec


class Model:
    """The model and its pipeline; any number of threads may call `classify` at the same time."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Load the model in a session of so many threads, which spin: ONNX Runtime's default."""
        artifact = Artifact.open(folder.parent, folder.parent.name, int(folder.name))
        if artifact.manifest is None or artifact.manifest.pipeline is None:
            raise SystemExit(f"{folder} is not an image classifier that mlserve exported")
        pipeline = artifact.manifest.pipeline
        self._labels = pipeline.full_labels(artifact.labels())
        self._steps = ImageSteps(pipeline, _Session(folder / "model.onnx", threads))
        self._steps.warm_up()

    def classify(self, image: bytes) -> tuple[str, float]:
        """Return the label of the best class and its score."""
        scores = self._steps.scores(image)
        best = int(scores.argmax())
        return self._labels[best], float(scores[best])


class _Session:
    """The session, as `mlserve.image_pipeline.steps.Forward`."""

    def __init__(self, file: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        (tensor,) = self._session.get_inputs()
        sizes = [size if isinstance(size, int) else None for size in tensor.shape]
        self._input = ImageInput.from_spec(TensorSpec(tensor.name, DType.FLOAT32, tuple(sizes)))

    def __call__(self, pixels: Array, deadline: Any = None) -> Array:
        feeds = {self._input.name: self._input.arranged(pixels)}
        (outputs,) = self._session.run(None, feeds)
        return np.asarray(outputs)

    def warm_up(self, black: Array) -> None:
        """Run once."""
        self(black)

    def close(self) -> None:
        """Nothing: the process ends."""
