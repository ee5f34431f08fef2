"""Which export a command takes, and what it says of the others that may have been meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlserve.cli.output import note
from mlserve.errors import first_of

if TYPE_CHECKING:
    from mlserve.served_model import ServedModel
    from mlserve.store import VersionPolicy


def export_of(
    backend: str | None,
    model: str | None,
    path: Path | None,
    versions: VersionPolicy,
    store: Path | None,
) -> ServedModel:
    """Return what `choose` takes, and say which other exports there are.

    Raises what `choose` raises.
    """
    from mlserve.model_choice import choose

    chosen = choose(backend, model, path, versions, store)
    if backend is None and path is None:
        tell_of_other_exports(chosen, model, store)
    return chosen


def tell_of_other_exports(chosen: ServedModel, model: str | None, store: Path | None) -> None:
    """Say what might have been meant, too: `choose` prefers the default backend."""
    from mlserve.store import Store

    others = [
        f"--backend {other_backend} --model {other}"
        for other_backend, other in Store(store).exported()
        if (other_backend, other) != (chosen.backend, chosen.model) and model in (None, other)
    ]
    if others:
        note(f"note: this is the export for {chosen.backend}; there is also {first_of(others, 3)}")
