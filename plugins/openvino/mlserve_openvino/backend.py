"""The `openvino` backend: OpenVINO IR, in fp32, bf16 or int8, with the image pipeline in Python."""

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
from mlserve.sources import Model
from mlserve.tensors import Signature

MODEL_FILE = "model.xml"
_FRAMEWORKS = {
    "onnx": ("onnx", ("onnx", "onnxruntime")),
    "tensorflow": ("export", ("tensorflow",)),
    "torch": ("torch", ("torch",)),
}
"""The extra of this distribution that exports a framework's models, and the modules it needs."""


class OpenVinoBackend(Backend):
    """OpenVINO's own files, run by OpenVINO in this process."""

    name = "openvino"
    summary = (
        "OpenVINO in fp32, bf16 or int8, with decode, resize and labels in Python; fast on CPUs"
    )
    install_hint = install_command("mlserve-openvino[serve]")
    requires = ("openvino", "numpy", "PIL", "simplejpeg")
    files = ("*.xml",)
    frameworks = tuple(_FRAMEWORKS)
    precisions = (Precision.FP32, Precision.BF16, Precision.INT8)
    limits_threads = True
    calls_ahead = 1
    load_options = ("device", "instances")

    def values_here(self, load_option: str) -> Sequence[str]:
        """Return the devices that OpenVINO finds on this machine, if there are several."""
        if load_option != "device":
            return ()
        from mlserve_openvino.opening import devices

        there = devices()
        return there if len(there) > 1 else ()

    def lacks(self, feature: Feature) -> str | None:
        """Nothing: its pipeline is mlserve's own, in Python."""
        return None

    def prepare(self, framework: str) -> None:
        """Import TensorFlow, quietly, for its own models.

        Raises PluginError when a package is absent, and ImportError for a broken import.
        """
        extra, modules = _FRAMEWORKS[framework]
        _require(extra, *modules)
        if framework == "tensorflow":
            import_quietly("tensorflow", "TF_CPP_MIN_LOG_LEVEL", _first_use)

    def export(self, model: Model, into: Path) -> Sequence[Signature]:
        """Write `model.xml` and `model.bin` into `into`. Raises ExportError."""
        return self.export_at(model, into, Quantization(Precision.FP32))

    def export_at(
        self, model: Model, into: Path, quantization: Quantization
    ) -> Sequence[Signature]:
        """Write the files, quantised by NNCF for int8; bf16 is chosen when they are loaded.

        Raises ExportError, and PluginError without a package.
        """
        if quantization.precision not in self.precisions:
            return super().export_at(model, into, quantization)
        if model.framework not in _FRAMEWORKS:
            raise self.takes_no(model)
        self.prepare(model.framework)
        if quantization.precision is Precision.INT8:
            _require(_FRAMEWORKS[model.framework][0], "nncf")
        from mlserve_openvino.exporter import write_ir

        return write_ir(model, into / MODEL_FILE, quantization)

    def sample(self, into: Path) -> None:
        """Write a small model, for the conformance suite."""
        from mlserve_openvino.sample import write_sample

        write_sample(into / MODEL_FILE)

    def load(self, artifact: Artifact, options: LoadOptions) -> Runner:
        """Load any OpenVINO IR into this process. Raises ModelLoadFailed."""
        file = self.model_file(artifact.path, MODEL_FILE)
        from mlserve_openvino.runner import load_runner

        return load_runner(artifact, file, options)

    def stages(self, artifact: Artifact, options: LoadOptions) -> ImageStages:
        """Return the Python pipeline steps around an exported model. Raises ModelLoadFailed."""
        file = self.model_file(artifact.path, MODEL_FILE)
        from mlserve_openvino.classifier import load_steps

        return load_steps(artifact, file, options)


def _require(extra: str, *modules: str) -> None:
    absent = absent_modules(modules)
    if absent:
        hint = install_command(f"mlserve-openvino[{extra}]")
        raise not_installed("exporting for openvino", *absent, hint=hint)


def _first_use(tensorflow: Any) -> None:
    tensorflow.get_logger().setLevel("ERROR")
    tensorflow.constant(0)  # finds the devices, which triggers the last log messages
