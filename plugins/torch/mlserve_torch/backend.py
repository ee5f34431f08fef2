"""A stand-in for the backend `torch`, until it lands: `.pt2` programs of one tensor in and out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlserve.artifact import Artifact
from mlserve.backend import Backend, Listen, Runner, ServerSpec
from mlserve.settings import LoadOptions


class TorchBackend(Backend):
    """PyTorch."""

    name = "torch"
    summary = "torch.export programs"
    install_hint = "pip install mlserve-torch[serve]"
    requires = ("torch", "numpy")
    files = ("*.pt2",)
    frameworks = ("torch",)
    load_options = ("device",)

    def load(self, artifact: Artifact, options: LoadOptions) -> Runner:
        from mlserve_torch.runner import TorchRunner

        return TorchRunner(next(artifact.path.glob("*.pt2")))

    def external_servers(
        self, base_path: Path, model: str, versions: Sequence[int], listen: Listen
    ) -> Sequence[ServerSpec]:
        from mlserve_torch.torchserve import server_specs

        return server_specs(self.name, base_path, model, versions, listen)
