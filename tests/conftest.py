"""What every core test shares: its own home, so that no test sees the user's models or servers."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that MLSERVE_HOME names, for this test and the processes it starts."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MLSERVE_HOME", str(folder))
    return folder
