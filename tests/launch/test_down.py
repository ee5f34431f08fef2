"""What the record of a server says while `mlserve down` stops it, and is stopped itself."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from mlserve.testing.processes import wait_until

pytestmark = pytest.mark.server


def begin_slow_request(address: str) -> None:
    """Asks for something that takes two minutes, and waits for no answer."""
    body = {"signature_name": "slow", "inputs": {"seconds": [120.0]}}
    headers = {"X-Request-Timeout-Ms": "150000"}

    def ask() -> None:
        with suppress(httpx.TransportError):  # the server is killed meanwhile
            httpx.post(f"{address}/v1/models/m:predict", json=body, headers=headers, timeout=150)

    threading.Thread(target=ask, daemon=True).start()


def test_what_was_stopped_before_an_interrupt_is_told_as_json_too(cli, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    for name, config in (("a", {}), ("m", {"journal": str(journal)})):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1/echo.json").write_text(json.dumps(config))
        assert cli.up("--path", str(tmp_path / name)).returncode == 0
    begin_slow_request(cli.ps()[1]["rest"])
    wait_until(lambda: "slow" in journal.read_text().splitlines()[-1:])
    log = Path(cli.ps()[1]["log"])
    stopping = cli.start("down", "--all", "--output", "json")
    wait_until(lambda: "stopping: 1 requests to finish" in log.read_text())
    stopping.send_signal(signal.SIGINT)
    out, _ = stopping.communicate(timeout=60)

    assert stopping.returncode == 130
    assert json.loads(out) == [{"name": "echo-a", "was_killed": False}]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_down_that_is_interrupted_while_the_server_drains_leaves_it_stopping(
    cli, tmp_path: Path, number: signal.Signals
) -> None:
    """It was told to end, and nothing takes that back: it gets no new work."""
    journal, photo = tmp_path / "journal", tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff a photo")
    (tmp_path / "m/1").mkdir(parents=True)
    (tmp_path / "m/1/echo.json").write_text(json.dumps({"journal": str(journal)}))
    drains = ("--drain-timeout", "120")  # for as long as the commands take here
    assert cli.up("--path", str(tmp_path / "m"), *drains).returncode == 0
    begin_slow_request(cli.ps()[0]["rest"])
    wait_until(lambda: "slow" in journal.read_text().splitlines()[-1:])
    stopping = cli.start("down")
    log = Path(cli.ps()[0]["log"])
    wait_until(lambda: "stopping: 1 requests to finish" in log.read_text())

    stopping.send_signal(number)

    assert stopping.wait(60) == 130
    [server] = cli.ps()
    assert server["status"] == "stopping"
    refused = cli("predict", str(photo))
    assert refused.returncode == 5
    assert "is stopping: it takes no new work" in refused.stderr
    assert "close" not in journal.read_text(), "what it has begun goes on"
    assert cli("down", "--timeout", "0.2").stdout == "echo-m is stopped\n"
    assert cli.ps() == []
