"""The hooks of this plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlserve.plugins import hookimpl
from mlserve_torch.backend import TorchBackend

if TYPE_CHECKING:
    from mlserve.sources import ModelSource


@hookimpl
def mlserve_backend() -> type[TorchBackend]:
    return TorchBackend


@hookimpl
def mlserve_model_sources() -> Sequence[ModelSource]:
    from mlserve_torch.backend import TorchSource

    return (TorchSource(),)
