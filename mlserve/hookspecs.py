"""The hooks a plugin can implement. The whole plugin interface is these two functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from mlserve.backend import Backend
    from mlserve.sources import ModelSource

GROUP = "mlserve"
"""The entry-point group, and the project name of the pluggy markers."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def mlserve_backend() -> type[Backend]:  # type: ignore[empty-body]
    """The backend of this plugin. Called once, when the backend is first used.

    Its name must equal the entry point's name, which is the value of `--backend`.
    """


@hookspec
def mlserve_model_sources() -> Iterable[ModelSource]:  # type: ignore[empty-body]
    """The model sources of this plugin. Called when a model is exported or sources are listed."""
