"""The `torch` backend: `torch.export` programs and TorchScript, in this process."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlserve.artifact import Artifact
from mlserve.backend import Backend, ImageStages, Listen, Quantization, Runner, ServerSpec
from mlserve.distributions import install_command
from mlserve.errors import ExportError
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Feature
from mlserve.precision import Precision
from mlserve.sources import Classifier, Model, ModelRequest, ModelSource, Progress
from mlserve.tensors import Signature
from mlserve_torch.archive import SUFFIXES, FileKind, has_known_suffix, kind_of

PROGRAM_FILE, SCRIPT_FILE = "model.pt2", "model.pt"


class TorchBackend(Backend):
    """Whole PyTorch models, run by PyTorch in this process, on the CPU or on CUDA."""

    name = "torch"
    summary = "PyTorch: .pt2 programs and TorchScript, on the CPU and on CUDA"
    install_hint = install_command("mlserve-torch[serve]")
    requires = ("torch", "numpy", "ml_dtypes", "PIL", "simplejpeg")
    files = tuple(f"*{suffix}" for suffix in SUFFIXES)
    frameworks = ("torch",)
    precisions = (Precision.FP32, Precision.BF16, Precision.FP16)
    load_options = ("device", "instances", "jpeg_decoder", "allow_pickle")

    def values_here(self, load_option: str) -> Sequence[str]:
        """Return the devices of this machine."""
        if load_option != "device":
            return ()
        from mlserve_torch.device import devices

        return devices()

    def lacks(self, feature: Feature) -> str | None:
        """Nothing: its pipeline is mlserve's own, in Python."""
        return None

    def export(self, model: Model, into: Path) -> Sequence[Signature]:
        """Copy the model's file into `into`. Raises ExportError for anything but a whole model."""
        file = Path(_file_of(model))
        kind = kind_of(file)
        name = PROGRAM_FILE if kind is FileKind.PROGRAM else SCRIPT_FILE
        shutil.copyfile(file, into / name)
        if isinstance(model, Classifier):
            from mlserve.image_pipeline.classifier import image_signatures

            return image_signatures(model.pipeline)
        return model.signatures

    def export_at(
        self, model: Model, into: Path, quantization: Quantization
    ) -> Sequence[Signature]:
        """Write `model.pt2` with weights and arithmetic in bf16 or fp16.

        Inputs and outputs keep their types. Raises ExportError, also for TorchScript, for int8, and
        for fp16 without a GPU.
        """
        if quantization.precision not in (Precision.BF16, Precision.FP16):
            return super().export_at(model, into, quantization)
        from mlserve_torch.half_precision import require_device, rewrite

        require_device(quantization.precision)
        signatures = self.export(model, into)
        rewrite(model.name, self.model_file(into), quantization.precision)
        return signatures

    def load(self, artifact: Artifact, options: LoadOptions) -> Runner:
        """Load the model onto the device. Raises ModelLoadFailed, and PluginError without it."""
        file = self.model_file(artifact.path, PROGRAM_FILE, SCRIPT_FILE)
        from mlserve_torch.runner import load_runner

        return load_runner(artifact, file, options)

    def stages(self, artifact: Artifact, options: LoadOptions) -> ImageStages:
        """Return the Python pipeline steps around an exported model. Raises ModelLoadFailed."""
        file = self.model_file(artifact.path, PROGRAM_FILE, SCRIPT_FILE)
        from mlserve_torch.runner import load_steps

        return load_steps(artifact, file, options)

    def external_servers(
        self, base_path: Path, model: str, versions: Sequence[int], listen: Listen
    ) -> Sequence[ServerSpec]:
        """Return TorchServe."""
        from mlserve_torch.torchserve import server_specs

        return server_specs(self.name, base_path, model, versions, listen)

    def sample(self, into: Path) -> None:
        """Write a small program, for the conformance suite."""
        from mlserve_torch.sample import write_sample

        write_sample(into / PROGRAM_FILE)


def _file_of(model: Model) -> Any:
    return model.forward if isinstance(model, Classifier) else model.content


class TorchSource(ModelSource):
    """A whole PyTorch model in a `.pt2` or TorchScript file, under a name that the user chooses."""

    name = "torch"
    summary = "your own PyTorch model: --model NAME --weights FILE.pt2|FILE.pt"
    file_types = (".pt2", ".pt")
    install_hint = install_command("mlserve-torch[serve]")
    framework = "torch"
    options = ("inputs", "allow_pickle")
    requires = ("torch", "numpy", "ml_dtypes")
    preprocessors = ("torchvision", "timm")

    def accepts(self, request: ModelRequest) -> bool:
        return has_known_suffix(request.weights_path)

    def preprocessing_of(self, library: str, name: str) -> Mapping[str, Any]:
        """Return the transforms of torchvision's weights, or timm's data configuration."""
        from mlserve_torch.training import preprocessing_of

        return preprocessing_of(library, name)

    def open(self, request: ModelRequest, progress: Progress) -> Model:
        """Open the model: inputs and outputs are read from the file, or found by a run."""
        path = request.weights_path
        if path is None:
            raise ExportError("a PyTorch source was asked to open a request without a file")
        from mlserve_torch.source import model_of_file

        return model_of_file(path, request)
