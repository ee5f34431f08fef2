"""The `onnxruntime` backend: ONNX files, with the image pipeline in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlserve.artifact import Artifact
from mlserve.backend import Backend, ImageStages, Quantization, Runner
from mlserve.distributions import install_command, not_installed
from mlserve.frameworks import import_quietly
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Feature
from mlserve.plugins import absent_modules
from mlserve.precision import Precision
from mlserve.sources import Model, ModelRequest, ModelSource, Progress, TensorModel
from mlserve.tensors import Signature

MODEL_FILE = "model.onnx"
_CONVERTERS = {
    "onnx": ("onnx",),
    "sklearn": ("onnx", "skl2onnx", "onnxmltools"),
    "tensorflow": ("onnx", "tf2onnx", "tensorflow"),
    "torch": ("onnx", "torch", "onnxscript"),
}
"""The modules that an export needs, by the framework of the model."""
_EXTRAS = {"sklearn": "sklearn", "torch": "torch"}
"""The extra of this distribution that has them, other than `export`."""


class OnnxRuntimeBackend(Backend):
    """ONNX files, run by ONNX Runtime in this process."""

    name = "onnxruntime"
    summary = "ONNX files with decode, resize and labels in Python; serving needs no TensorFlow"
    install_hint = install_command("mlserve-onnxruntime[serve]")
    requires = ("onnxruntime", "numpy", "PIL", "simplejpeg")
    files = ("*.onnx",)
    frameworks = tuple(_CONVERTERS)
    precisions = tuple(Precision)
    limits_threads = True
    load_options = ("provider", "instances")

    def values_here(self, load_option: str) -> Sequence[str]:
        """Return the execution providers of the installed build of ONNX Runtime."""
        if load_option != "provider":
            return ()
        from mlserve_onnxruntime.providers import installed

        return tuple(installed())

    def lacks(self, feature: Feature) -> str | None:
        """Nothing: its pipeline is mlserve's own, in Python."""
        return None

    def prepare(self, framework: str) -> None:
        """Import TensorFlow, quietly, for its own models and, if it is installed, for ONNX files.

        Raises PluginError when a package is absent, and ImportError for a broken import.
        """
        _require(_EXTRAS.get(framework, "export"), *_CONVERTERS[framework])
        if framework not in _EXTRAS and not absent_modules(("tensorflow",)):
            import_quietly("tensorflow", "TF_CPP_MIN_LOG_LEVEL", _first_use)

    def export(self, model: Model, into: Path) -> Sequence[Signature]:
        """Write `model.onnx` into `into`. Raises ExportError; PluginError without a converter."""
        self.prepare(model.framework)
        if model.framework == "onnx":
            from mlserve_onnxruntime.onnx_writer import write_onnx_file

            return write_onnx_file(model, into / MODEL_FILE)
        if model.framework == "torch":
            from mlserve_onnxruntime.torch_exporter import write_program

            return write_program(model, into / MODEL_FILE)
        if not isinstance(model, TensorModel):
            from mlserve_onnxruntime.exporter import write_tensorflow

            return write_tensorflow(model, into / MODEL_FILE)
        if model.framework == "sklearn":
            from mlserve_onnxruntime.sklearn_exporter import write_sklearn

            return write_sklearn(model, into / MODEL_FILE)
        from mlserve_onnxruntime.tensor_exporter import write_signature

        return write_signature(model, into / MODEL_FILE)

    def export_at(
        self, model: Model, into: Path, quantization: Quantization
    ) -> Sequence[Signature]:
        """Write `model.onnx` as `export` does, then rewrite it in that precision.

        For bf16 the file stays in fp32: a provider rounds as it multiplies. Raises ExportError,
        also where no provider of this machine computes in that precision.
        """
        from mlserve_onnxruntime.providers import require_precision

        require_precision(quantization.precision)
        signatures = self.export(model, into)
        if quantization.precision is Precision.INT8:
            from mlserve_onnxruntime.quantizing import quantize

            quantize(model, into / MODEL_FILE, quantization)
        elif quantization.precision is Precision.FP16:
            from mlserve_onnxruntime.half_precision import write_half

            write_half(model, into / MODEL_FILE)
        return signatures

    def sample(self, into: Path) -> None:
        """Write an ONNX file of `y = x / 2`, which needs the package onnx."""
        _require("export", "onnx")
        from mlserve_onnxruntime.sample import write_sample

        write_sample(into / MODEL_FILE)

    def load(self, artifact: Artifact, options: LoadOptions) -> Runner:
        """Load any ONNX file into ONNX Runtime in this process. Raises ModelLoadFailed."""
        file = self.model_file(artifact.path, MODEL_FILE)
        from mlserve_onnxruntime.runner import load_runner

        return load_runner(artifact, file, options)

    def stages(self, artifact: Artifact, options: LoadOptions) -> ImageStages:
        """Return the Python pipeline steps around an exported model. Raises ModelLoadFailed."""
        file = self.model_file(artifact.path, MODEL_FILE)
        from mlserve_onnxruntime.classifier import load_steps

        return load_steps(artifact, file, options)


def _require(extra: str, *modules: str) -> None:
    absent = absent_modules(modules)
    if absent:
        hint = install_command(f"mlserve-onnxruntime[{extra}]")
        raise not_installed("exporting for onnxruntime", *absent, hint=hint)


class OnnxSource(ModelSource):
    """A model in an `.onnx` file, under a name that the user chooses.

    The content of its TensorModel is the path of that file.
    """

    name = "onnx"
    summary = "your own ONNX model: --model NAME --weights FILE.onnx [--labels FILE]"
    file_types = (".onnx",)
    install_hint = install_command("mlserve-onnxruntime[serve]") + " onnx"
    framework = "onnx"
    requires = ("onnxruntime", "numpy", "onnx")

    def accepts(self, request: ModelRequest) -> bool:
        return _is_onnx(request.weights_path)

    def open(self, request: ModelRequest, progress: Progress) -> Model:
        """Open the model: a classifier's input is read from the file, its output is probed."""
        path = request.weights_path
        if path is None:
            raise ValueError("an ONNX source was asked to open a request without a file")
        from mlserve_onnxruntime.onnx_file import open_file

        return open_file(path, request)


def _is_onnx(path: Path | None) -> bool:
    return path is not None and path.suffix == ".onnx" and not path.is_dir()


def _first_use(tensorflow: Any) -> None:
    tensorflow.get_logger().setLevel("ERROR")
    tensorflow.constant(0)  # finds the devices, which triggers the last log messages
