"""A server whose `mlserve up` was killed before it was ready: `ps` says what is, not what was."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def orphan(cli: Any, until: Any) -> dict[str, Any]:
    """What `ps` says of a server that is starting, once its `up` has been killed."""
    up = cli.start("up", "--backend", "echo", "--grpc-port", "0", "--rest-port", "0")
    until(lambda: [entry["status"] for entry in cli.ps()] == ["starting"])
    assert cli.ps()[0]["why"] is None
    up.kill()
    up.wait()
    (entry,) = cli.ps()
    return dict(entry)


def test_ps_finds_out_that_a_server_got_ready_without_its_up(
    cli: Any, export: Any, until: Any
) -> None:
    export(load_delay=4)
    entry = orphan(cli, until)
    assert "the `mlserve up` that started it is gone; now " in entry["why"]
    until(lambda: cli.ps()[0]["status"] == "ready")
    (entry,) = cli.ps()
    assert (entry["is_ready"], entry["why"]) == (True, None)


def test_ps_says_of_a_server_that_stands_still_that_it_does_not_answer(
    cli: Any, export: Any, until: Any
) -> None:
    export(load_delay=60)
    pid = orphan(cli, until)["pid"]
    os.kill(pid, signal.SIGSTOP)
    (entry,) = cli.ps()
    assert entry["status"] == "not answering"
    table = cli("ps")
    assert "not answering" in table.stdout
    assert "echo-m is not answering: the `mlserve up` that started it is gone" in table.stderr
