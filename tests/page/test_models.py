"""A server of several models: each is asked what it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlserve.testing.processes import ServerProcess, stopping
from tests.harness.axe import overflow
from tests.harness.chromium import Browser
from tests.harness.echo import EchoModel
from tests.harness.server import EchoServer, running
from tests.page.scenes import opened

pytestmark = pytest.mark.server


def test_the_model_beside_is_left_with_the_first(browser: Browser, tmp_path: Path) -> None:
    """It stays while versions of one model are compared; another model takes other inputs."""
    text = "[servers.line]\n"
    for name in ("cats", "dogs"):
        model = EchoModel(tmp_path / name)
        model.put(1)
        model.put(2)
        text += (
            f'[servers.line.models.{name}]\npath = "{model.base_path}"\nbackend = "echo"\n'
            'version = "all"\n'
        )
    (tmp_path / "mlserve.toml").write_text(text)
    argv = [sys.executable, "-m", "mlserve.server", "--server=line", "--config=mlserve.toml"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [*argv, "--grpc-port=0", "--rest-port=0"], stderr=log, cwd=tmp_path
        ) as process,
        stopping(process),
    ):
        server = ServerProcess(process, "cats", tmp_path / "log")
        for version in (1, 2):
            server.wait_ready(version)
        ServerProcess(process, "dogs", tmp_path / "log").wait_ready(2)
        opened(browser, server)
        browser.choose("#first", "cats · version 2")
        browser.choose("#second", "cats · version 1")
        browser.choose("#first", "cats · version 1")
        assert browser.run("return document.querySelector('#second').value") == "cats\n1"
        browser.choose("#first", "dogs · version 2")
        assert browser.run("return document.querySelector('#second').value") == ""


def test_a_name_that_has_no_room_is_said_below_its_choice(
    browser: Browser, tmp_path: Path, two_versions: EchoServer
) -> None:
    """The browser cuts it off, and with it the version, by which two of them differ."""
    opened(browser, two_versions)
    assert not any(map(browser.sees, ("#first + .whole", "#second + .whole")))
    model = EchoModel(tmp_path / ("defects-in-sheets-of-steel-" * 4))
    model.put(1)
    model.put(2)
    with running(model, tmp_path / "log", "--all-versions") as server:
        server.wait_ready(1)
        server.wait_ready(2)
        opened(browser, server)
        assert browser.text("#first + .whole").startswith(f"{model.name} · version 2")
        browser.choose("#second", f"{model.name} · version 1")
        browser.wait(lambda: "· version 1" in browser.text("#second + .whole"))
        browser.look(width=320)
        assert overflow(browser) <= 0
        browser.choose("#second", "no other")
        browser.wait(lambda: not browser.sees("#second + .whole"))
