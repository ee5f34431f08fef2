"""The hooks of this plugin, which provides model sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlserve.plugins import hookimpl

if TYPE_CHECKING:
    from mlserve.sources import ModelSource


@hookimpl
def mlserve_model_sources() -> Sequence[ModelSource]:
    """Return the sources, those with models of their own first."""
    from mlserve_models.sources import (
        EfficientNetSource,
        KerasFileSource,
        SavedModelSource,
        TfHubSource,
    )

    return TfHubSource(), EfficientNetSource(), KerasFileSource(), SavedModelSource()
