"""The hooks of this plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlserve.plugins import hookimpl
from mlserve_onnxruntime.backend import OnnxRuntimeBackend

if TYPE_CHECKING:
    from mlserve.sources import ModelSource


@hookimpl
def mlserve_backend() -> type[OnnxRuntimeBackend]:
    return OnnxRuntimeBackend


@hookimpl
def mlserve_model_sources() -> Sequence[ModelSource]:
    from mlserve_onnxruntime.backend import OnnxSource

    return (OnnxSource(),)
