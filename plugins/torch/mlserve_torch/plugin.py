"""The hooks of this plugin."""

from __future__ import annotations

from mlserve.plugins import hookimpl
from mlserve_torch.backend import TorchBackend


@hookimpl
def mlserve_backend() -> type[TorchBackend]:
    return TorchBackend
