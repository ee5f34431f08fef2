"""`mlserve up --shadow` and `--split`, `status`, and `models use`, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve.testing.processes import wait_until
from tests.harness.command import Command

pytestmark = pytest.mark.server


@pytest.fixture
def versions(export: Callable[..., Path]) -> Path:
    """Versions 1 and 2 of a model, which answer otherwise."""
    export(version=1, label="one")
    return export(version=2, label="two")


@pytest.fixture
def server(cli: Any, versions: Path) -> dict[str, Any]:
    """A server of version 1 whose split gives half to version 2."""
    up = cli.up("--split", "v2=50%")
    assert up.returncode == 0, up.stderr
    [server] = cli.ps()
    return server


def answer(server: dict[str, Any]) -> str:
    reply = httpx.post(f"{server['rest']}/v1/models/m:predict", json={"inputs": ["x"]}, timeout=20)
    return str(reply.json()["outputs"][0])


def state(server: dict[str, Any], kind: str) -> str:
    """Return what the server's shadow or split does, without a command: that takes longer."""
    told = httpx.get(f"{server['rest']}/mlserve/shadow", timeout=20).json()[kind]["m"]
    return str(told["state"])


def status(cli: Any) -> dict[str, Any]:
    done = cli("status", "--output", "json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_split_from_up_to_models_use(cli: Any, server: dict[str, Any]) -> None:
    wait_until(lambda: state(server, "split") == "running")
    wait_until(lambda: answer(server) and state(server, "split") == "stopped")
    told = status(cli)
    assert told["split"]["m"]["why"] == "more than 1 % of its answers differ"
    assert told["split"]["m"]["checked"]["interval_is"] == "Wilson, 95 %"
    assert told["shadow"] == {}
    text = cli("status").stdout
    assert "split: version 2 of m gets none of the requests that name no version (stopped)" in text
    assert "WARNING: the split is stopped since " in text
    assert "`mlserve models use 2` gives the version all requests" in text
    assert "split: version 2: goodput " in text

    used = cli("models", "use", "1")  # nothing to wait for: version 2 stays beside it
    assert used.returncode == 0, used.stderr
    assert "echo-m serves version 1" in used.stdout
    assert {answer(server) for _ in range(20)} == {"one"}
    used = cli("models", "use", "2")
    assert used.returncode == 0, used.stderr
    assert {answer(server) for _ in range(20)} == {"two"}
    wait_until(lambda: state(server, "split") == "in use")


@pytest.mark.alone  # the shadow gets no CPU that anything else wants
def test_a_shadow_from_up_and_what_status_says(cli: Any, versions: Path) -> None:
    up = cli.up("--shadow", "2")
    assert up.returncode == 0, up.stderr
    [server] = cli.ps()
    wait_until(lambda: state(server, "shadow") == "running")
    assert answer(server) == "one"
    wait_until(lambda: "output_0 is" in httpx.get(f"{server['rest']}/mlserve/shadow").text)
    text = cli("status").stdout
    assert "shadow: version 2 beside version 1 of m (running): " in text
    assert "served one, other two (output_0 is 'two', not 'one')" in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--shadow", "9"), 2, "m has no version 9 (there: 1, 2)"),
        (("--split", "v9=5%"), 2, "m has no version 9 (there: 1, 2)"),
        (("--shadow", "latest"), 2, "neither a version nor an endpoint"),
        (("--shadow", "http://a/v1/models/m"), 2, "is not an endpoint: it names the path"),
        (("--shadow", "2", "--split", "v2=5%"), 2, "--shadow and --split do not go together"),
        (("--split", "v2=5%", "--auto"), 2, "--auto chooses what to serve, and --split does too"),
        (("--split", "v2=5%", "--ladder", "echo/m@1,echo/m@2"), 2, "does not go with a ladder"),
        (("--shadow", "a:1", "--shadow-token-file", "nowhere"), 2, "(--shadow-token-file) cannot"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(
    cli: Command, versions: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    done = cli("up", "--backend", "echo", "--model", "m", *words)
    assert said in done.stderr
    assert "hint" in done.stderr
    assert done.returncode == code


def test_a_version_that_is_in_use_anyway_is_no_error(cli: Any, versions: Path) -> None:
    done = cli.up("--version", "2", "--shadow", "2")
    assert done.returncode == 0, done.stderr
    assert "version 2 of m is the one in use, so there is nothing to compare" in done.stderr
    assert status(cli)["shadow"]["m"]["state"] == "in use"
