"""A user's own ONNX model in a file."""

from __future__ import annotations

from pathlib import Path

from mlserve.classifiers import classifier
from mlserve.distributions import install_command
from mlserve.sources import Classifier, ModelRequest, ModelSource, Progress


class OnnxSource(ModelSource):
    """An image classifier in an `.onnx` file, under a name that the user chooses."""

    name = "onnx"
    summary = "your own ONNX classifier: --model NAME --weights FILE.onnx --labels FILE"
    install_hint = install_command("mlserve-onnxruntime[serve]") + " onnx"
    framework = "onnx"
    requires = ("onnxruntime", "numpy", "onnx")

    def accepts(self, request: ModelRequest) -> bool:
        return _is_onnx(request.weights_path)

    def open(self, request: ModelRequest, progress: Progress) -> Classifier:
        """The model in the file: its input read from the file, its output probed."""
        path = request.weights_path
        if path is None:
            raise ValueError("an ONNX source was asked to open a request without a file")
        from mlserve_onnxruntime.onnx_file import network_of_file

        return classifier(request, network_of_file(path, request))


def _is_onnx(path: Path | None) -> bool:
    return path is not None and path.suffix == ".onnx" and not path.is_dir()
