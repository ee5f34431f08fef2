"""A version of an echo model in the store, and a tuning of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mlserve.load_options import LoadOptions
from mlserve.model_choice import choose
from mlserve.served_model import ServedModel
from mlserve.store import VersionPolicy
from mlserve.tune.machine import Machine
from mlserve.tune.records import Tuning, digest_of


@pytest.fixture
def served(export: Callable[..., Path]) -> ServedModel:
    """Version 1 of the model `m`."""
    export()
    return choose("echo", "m", None, VersionPolicy())


@pytest.fixture
def tuned(served: ServedModel) -> Callable[..., Tuning]:
    """`tuned(threads=2)` returns a tuning of `served` on this machine; nothing is kept yet."""

    def tuning(**options: object) -> Tuning:
        return Tuning(
            backend="echo",
            model="m",
            base_path=served.base_path,
            version=1,
            digest=digest_of(served),
            machine=Machine.here(),
            made="2026-01-02T03:04:05+00:00",
            options=LoadOptions.from_json(options),
            gain="20% more answers/s",
        )

    return tuning
