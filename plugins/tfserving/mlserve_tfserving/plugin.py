"""The hooks of this plugin."""

from __future__ import annotations

from mlserve.plugins import hookimpl
from mlserve_tfserving.backend import TFServingBackend


@hookimpl
def mlserve_backend() -> type[TFServingBackend]:
    return TFServingBackend
