"""The commands that the page shows are run as they stand, and give the page's answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.chromium import Browser
from tests.harness.server import EchoServer
from tests.page.scenes import LABEL, TOKEN, opened, signature_shown, unlocked

pytestmark = pytest.mark.server

KINDS = ("Command line", "curl", "Python")


def shown(browser: Browser, kind: str) -> str:
    """Return the command of that kind, once it is shown."""
    browser.run(f"document.querySelector('input[name=command][value=\"{kind}\"]').click()")
    starts = {"Command line": "mlserve ", "curl": "curl ", "Python": ("from ", "import ")}[kind]
    return browser.wait(
        lambda: text if (text := browser.text("#command")).startswith(starts) else None
    )


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """`run(kind, text)` runs a command in the folder of the test, and returns what it prints."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "mlserve"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mlserve "$@"\n')
    script.chmod(0o755)

    def run(kind: str, text: str, **env: str) -> str:
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        argv = [sys.executable, "-c", text] if kind == "Python" else ["bash", "-euc", text]
        done = subprocess.run(
            argv,
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "NO_COLOR": "1", **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


def test_of_an_image(browser: Browser, two_versions: EchoServer, image: Path, run: Any) -> None:
    opened(browser, two_versions)
    browser.type("#count", "7")
    browser.choose("#first", "version 1")
    browser.wait(
        lambda: (
            "version 1"
            in browser.run("return document.querySelector('#first').selectedOptions[0].text")
        )
    )
    browser.drop(image, "image/jpeg")
    assert browser.text(LABEL) == "sorrel"
    page = list(zip(browser.texts(".bars .name"), browser.texts(".bars .number"), strict=True))
    assert len(page) == 7

    lines = run("Command line", shown(browser, "Command line")).splitlines()
    assert [line.split("\t")[-1] for line in lines[1:]] == [label for label, _ in page]

    [answer] = json.loads(run("curl", shown(browser, "curl")))["predictions"]
    assert answer["labels"][:7] == [label for label, _ in page]

    label, _, scores = run("Python", shown(browser, "Python")).partition(" ")
    assert label == "sorrel"
    assert scores.count("Score(") == 7


def test_of_a_form(browser: Browser, two_versions: EchoServer, run: Any) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "two", ["a", "b"])
    browser.type("#input-0", "[1.5,\n 2]")
    browser.type("#input-1", "[10, NaN]")
    browser.click("#ask-button")
    browser.wait(lambda: browser.texts(".rows tbody tr") == ["1\t12\t15", "2\tNaN\tNaN"])

    said = run("Command line", shown(browser, "Command line"))
    assert said.splitlines()[1:] == ["1\t15.0\t12.0", "2\tNaN\tNaN"]
    answer = json.loads(run("curl", shown(browser, "curl")))["outputs"]
    assert (answer["sum"][0], answer["product"][0]) == (12.0, 15.0)
    assert "12." in run("Python", shown(browser, "Python"))


def test_of_strings_and_files(
    browser: Browser, two_versions: EchoServer, image: Path, run: Any
) -> None:
    """Quotes, a signature by its name, and bytes that are sent as base64."""
    opened(browser, two_versions)
    browser.choose("#signature", "identity_bytes")
    browser.wait(lambda: browser.sees("#signature"))
    browser.run("document.querySelector('input[name=kind][value=form]').click()")
    browser.wait(lambda: browser.sees("#input-0"))
    browser.type("#input-0", 'it\'s "fine" $HOME')
    browser.click("#ask-button")
    browser.wait(lambda: browser.sees(LABEL))
    assert browser.text(LABEL) == 'it\'s "fine" $HOME'
    assert 'it\'s "fine" $HOME' in run("Command line", shown(browser, "Command line"))
    assert json.loads(run("curl", shown(browser, "curl")))["outputs"] == ['it\'s "fine" $HOME']
    assert "" in run("Python", shown(browser, "Python"))

    browser.give("#fields input[type=file]", image)
    browser.wait(lambda: "takes the place" in browser.text("#fields .row .muted"))
    browser.click("#ask-button")
    browser.wait(lambda: "that are not text" in browser.text(".answer"))
    assert (
        b"a photo of a horse"
        in eval(run("Python", shown(browser, "Python")).split("array(")[1].split(", dtype")[0])[0]
    )


def test_of_a_table(browser: Browser, two_versions: EchoServer, tmp_path: Path, run: Any) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "two", ["a", "b"])
    table = tmp_path / "rows.csv"
    table.write_text("a,b\n" + "".join(f"{row},{row / 4}\n" for row in range(400)))
    browser.drop(table, "text/csv")
    browser.wait(lambda: len(browser.texts(".rows tbody tr")) == 200)
    assert "and 200 rows more" in browser.text(".rows .muted")

    said = run("Command line", shown(browser, "Command line")).splitlines()
    assert len(said) == 401
    assert said[5] == "5\t4.0\t5.5"
    curl = shown(browser, "curl")
    browser.run("document.querySelector('#command-note button').click()")
    saved = browser.wait(lambda: next(iter(_saved(browser)), None))
    saved.rename(tmp_path / "request.json")
    answer = json.loads(run("curl", curl))["outputs"]
    assert (answer["sum"][4], answer["product"][4]) == (5.5, 4.0)
    assert "5.5" in run("Python", shown(browser, "Python"))


def _saved(browser: Browser) -> list[Path]:
    """Return the requests that the browser has saved and written whole."""
    return [path for path in browser.saved.glob("request*.json") if path.stat().st_size]


def test_with_a_token(browser: Browser, locked: EchoServer, image: Path, run: Any) -> None:
    unlocked(browser, locked)
    browser.drop(image, "image/jpeg")
    assert browser.text(LABEL) == "sorrel"
    for kind in KINDS:
        text = shown(browser, kind)
        assert TOKEN not in text
        assert "sorrel" in run(kind, text, MLSERVE_TOKEN=TOKEN)
