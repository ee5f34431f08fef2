"""The hooks of this plugin."""

from __future__ import annotations

from mlserve.plugins import hookimpl
from mlserve_openvino.backend import OpenVinoBackend


@hookimpl
def mlserve_backend() -> type[OpenVinoBackend]:
    return OpenVinoBackend
