"""The hooks of this plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlserve.plugins import hookimpl
from mlserve_sklearn.backend import SklearnBackend

if TYPE_CHECKING:
    from mlserve.sources import ModelSource


@hookimpl
def mlserve_backend() -> type[SklearnBackend]:
    return SklearnBackend


@hookimpl
def mlserve_model_sources() -> Sequence[ModelSource]:
    from mlserve_sklearn.source import SklearnSource

    return (SklearnSource(),)
