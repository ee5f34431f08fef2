"""The `tfserving` backend: SavedModels, run by TensorFlow here or by tensorflow_model_server."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlserve.artifact import Artifact
from mlserve.backend import Backend, ImageStages, Listen, Runner, ServerSpec
from mlserve.distributions import install_command
from mlserve.errors import ModelLoadFailed
from mlserve.frameworks import import_quietly, keras_left_out
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Feature
from mlserve.sources import Model, TensorModel
from mlserve.tensors import Signature
from mlserve_tfserving.native import server_specs

LEVEL_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
_GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt")


class TFServingBackend(Backend):
    """TensorFlow SavedModels, as TensorFlow Serving serves them."""

    name = "tfserving"
    summary = "TensorFlow SavedModels; a classifier's has decode, resize and labels in its graph"
    install_hint = install_command("mlserve-tfserving[export]")
    requires = ("numpy", "tensorflow")
    files = _GRAPH_FILES

    def lacks(self, feature: Feature) -> str | None:
        """Return why its graphs do not have that."""
        if feature is Feature.EXIF:
            return (
                "its pipeline is a TensorFlow graph, and TensorFlow has no operation that reads "
                "EXIF"
            )
        return None

    def prepare(self, framework: str) -> None:
        """Import TensorFlow, quietly. Raises ImportError."""
        import_tensorflow()

    def export(self, model: Model, into: Path) -> Sequence[Signature]:
        """Write a SavedModel into `into`; one of a classifier has warm-up requests.

        Raises ExportError.
        """
        quiet_logs()
        if isinstance(model, TensorModel):
            from mlserve_tfserving.tensor_exporter import copy_saved_model

            return copy_saved_model(model, into)
        from mlserve_tfserving.exporter import write_saved_model

        return write_saved_model(model, into)

    def sample(self, into: Path) -> None:
        """Write a SavedModel of `y = x / 2 + 2`."""
        _load_tensorflow()
        from mlserve_tfserving.sample import write_sample

        write_sample(into)

    def load(self, artifact: Artifact, options: LoadOptions) -> Runner:
        """Load any SavedModel into TensorFlow in this process. Raises ModelLoadFailed."""
        _require_saved_model(artifact.path)
        _load_tensorflow()
        from mlserve_tfserving.runner import load_runner

        return load_runner(artifact, options)

    def stages(self, artifact: Artifact, options: LoadOptions) -> ImageStages:
        """Return the steps of a SavedModel that mlserve exported. Raises ModelLoadFailed."""
        _require_saved_model(artifact.path)
        _load_tensorflow()
        from mlserve_tfserving.stages import load_stages

        return load_stages(artifact, options)

    def external_servers(
        self, base_path: Path, model: str, versions: Sequence[int], listen: Listen
    ) -> Sequence[ServerSpec]:
        """Return `tensorflow_model_server` as data."""
        return server_specs(base_path, model, versions, listen)


def _require_saved_model(folder: Path) -> None:
    if any((folder / name).is_file() for name in _GRAPH_FILES):
        return
    there = "there is no such folder" if not folder.exists() else "it has no saved_model.pb"
    raise ModelLoadFailed(
        f"{folder} is not a SavedModel: {there}",
        hint="a model's folder holds <version>/saved_model.pb; `mlserve export` writes one",
    )


def quiet_logs() -> None:
    """Set TensorFlow's log level to errors, unless the user set one.

    It takes effect only before TensorFlow is imported.
    """
    os.environ.setdefault(LEVEL_VARIABLE, "2")


def _load_tensorflow() -> None:
    """Import TensorFlow without Keras and with few messages."""
    quiet_logs()
    with keras_left_out():
        importlib.import_module("tensorflow")


def import_tensorflow() -> None:
    """Import TensorFlow without its start-up messages, unless the user set a log level.

    Raises ImportError.
    """
    import_quietly("tensorflow", LEVEL_VARIABLE, _first_use)


def _first_use(tensorflow: Any) -> None:
    tensorflow.get_logger().setLevel("ERROR")
    tensorflow.constant(0)  # finds the devices, which triggers the last log messages
