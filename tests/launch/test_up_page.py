"""`mlserve up --open`, and the address of the page that `up` tells."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve.testing.processes import wait_until

pytestmark = pytest.mark.server


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What a browser was asked to open: a file with its address. It prints, and lives on."""
    script, opened = tmp_path / "browser", tmp_path / "opened"
    script.write_text(
        f"#!/bin/sh\necho a browser prints\ntail -f {script} & echo $! >> {opened}.pids\n"
        f'echo "$1" > {opened}.part && mv {opened}.part {opened}\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{script} %s")
    yield opened
    for pid in Path(f"{opened}.pids").read_text().split() if opened.exists() else ():
        os.kill(int(pid), signal.SIGTERM)


def test_the_page_is_opened_once_the_server_is_ready(cli: Any, export: Any, browser: Path) -> None:
    export()
    up = cli.up("--open")
    assert up.returncode == 0, up.stderr
    [server] = cli.ps()
    wait_until(browser.exists)
    address = browser.read_text().strip()
    assert address == f"http://127.0.0.1:{server['rest_port']}/"
    assert f"or in a browser: {address}" in up.stderr
    assert httpx.get(address).headers["content-type"].startswith("text/html")

    browser.unlink()
    again = cli.up("--open", "--output", "json")  # it runs already
    wait_until(browser.exists)
    assert json.loads(again.stdout)["rest_port"] == server["rest_port"]


def test_a_server_without_a_page(cli: Any, export: Any, browser: Path) -> None:
    export()
    refused = cli.up("--open", "--no-page")
    assert refused.returncode == 2
    assert "--no-page" in refused.stderr
    up = cli.up("--no-page")
    assert up.returncode == 0, up.stderr
    assert "in a browser" not in up.stderr
    [server] = cli.ps()
    assert httpx.get(f"http://127.0.0.1:{server['rest_port']}/").status_code == 404
    assert not browser.exists()


def test_no_browser(cli: Any, export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    export()
    monkeypatch.setenv("BROWSER", "false %s")
    up = cli.up("--open")
    assert up.returncode == 0, up.stderr
    assert "no browser could be started: the page is at http://127.0.0.1:" in up.stderr
