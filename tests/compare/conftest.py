"""Exported models of the test backend `echo`, and images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def export(export: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a version of the model `m`, version first: most comparisons are between versions."""

    def write(version: int = 1, model: str = "m", **config: Any) -> Path:
        return export(model, version, **config)

    return write


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two files that the echo backend takes for images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.png"):
        (folder / name).write_bytes(b"an image")
    return folder
