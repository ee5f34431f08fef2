"""What the record of a server says while `mlserve down` stops it, and is stopped itself."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_down_that_is_interrupted_while_the_server_drains_leaves_it_stopping(
    cli, export, until: Callable[[Callable[[], Any]], Any], tmp_path: Path, number: signal.Signals
) -> None:
    """It was told to end, and nothing takes that back: it gets no new work."""
    journal, photo = tmp_path / "journal", tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff a photo")
    export(delay=60, journal=str(journal))
    assert cli.up().returncode == 0
    warm_up = journal.read_text()
    asking = cli.start("predict", str(photo), "--timeout", "90")
    until(lambda: journal.read_text() != warm_up)
    stopping = cli.start("down")
    log = Path(cli.ps()[0]["log"])
    until(lambda: "stopping: 1 requests to finish" in log.read_text())

    stopping.send_signal(number)

    assert stopping.wait(10) == 130
    [server] = cli.ps()
    assert server["status"] == "stopping"
    refused = cli("predict", str(photo))
    assert refused.returncode == 5
    assert "is stopping: it takes no new work" in refused.stderr
    assert asking.poll() is None, "what it has begun goes on"
    assert cli("down", "--timeout", "0.2").stdout == "echo-m is stopped\n"
    assert cli.ps() == []
