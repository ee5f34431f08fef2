"""What every core test shares: its own home, so that no test sees the user's models or servers."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Lets the commands that tests start be interrupted.

    A shell starts what it runs in the background with SIGINT ignored, and every process below would
    inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that MLSERVE_HOME names, for this test and the processes it starts."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MLSERVE_HOME", str(folder))
    return folder
