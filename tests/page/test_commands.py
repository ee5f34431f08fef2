"""The commands that the page shows are run as they stand, and give the page's answer."""

from __future__ import annotations

import ast
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from mlserve.testing.processes import wait_until
from tests.harness.chromium import Browser
from tests.harness.echo import EchoModel
from tests.harness.server import EchoServer, running
from tests.page.scenes import (
    LABEL,
    TOKEN,
    ask,
    chosen,
    command_shown,
    opened,
    signature_shown,
    unlocked,
)

pytestmark = pytest.mark.server

KINDS = ("Command line", "curl", "Python")


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
    assert "version 1" in chosen(browser, "#first")
    browser.drop(image, "image/jpeg")
    assert browser.text(LABEL) == "sorrel"
    page = list(zip(browser.texts(".bars .name"), browser.texts(".bars .number"), strict=True))
    assert len(page) == 7

    lines = run("Command line", command_shown(browser, "Command line")).splitlines()
    assert [line.split("\t")[-1] for line in lines[1:]] == [label for label, _ in page]

    [answer] = json.loads(run("curl", command_shown(browser, "curl")))["predictions"]
    assert answer["labels"][:7] == [label for label, _ in page]

    program = command_shown(browser, "Python")
    assert program.startswith("from mlserve import Client\n")  # and nothing that is not used
    label, _, scores = run("Python", program).partition(" ")
    assert label == "sorrel"
    assert scores.count("Score(") == 7


def test_of_a_form(browser: Browser, two_versions: EchoServer, run: Any) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "two", ["a", "b"])
    browser.type("#input-0", "[1.5,\n 2]")
    browser.type("#input-1", "[10, NaN]")
    browser.click("#ask-button")
    browser.wait(lambda: browser.texts(".rows tbody tr") == ["1\t12\t15", "2\tNaN\tNaN"])

    said = run("Command line", command_shown(browser, "Command line"))
    assert said.splitlines()[1:] == ["1\t15.0\t12.0", "2\tNaN\tNaN"]
    answer = json.loads(run("curl", command_shown(browser, "curl")))["outputs"]
    assert (answer["sum"][0], answer["product"][0]) == (12.0, 15.0)
    assert "12." in run("Python", command_shown(browser, "Python"))


NAMES = (
    '-it\'s $(touch pwned) "quoted"; `x` & #1 %41.jpg',
    "two\nlines \\ and *.png",
    "-",
    "=ls",
    "\u202egnp.jpg",
)
ANSWERED = "return byId('preview').alt === arguments[0] && byId('stop').hidden"


def test_of_images_of_any_name(
    browser: Browser, two_versions: EchoServer, image: Path, tmp_path: Path, run: Any
) -> None:
    opened(browser, two_versions)
    for name in NAMES:
        named = image.rename(tmp_path / name)
        browser.drop(named, "image/jpeg")
        browser.wait(partial(browser.run, ANSWERED, name))
        assert browser.text(LABEL) == "zebra"
        for kind in KINDS:
            assert "zebra" in run(kind, command_shown(browser, kind)), name
        image = named
    signature_shown(browser, "ranking", ["image"])
    ask(browser)
    for kind in KINDS:
        assert "impala" in run(kind, command_shown(browser, kind))
    assert not (tmp_path / "pwned").exists()


def test_of_strings_and_files(
    browser: Browser, two_versions: EchoServer, image: Path, run: Any
) -> None:
    """Quotes, a signature by its name, escapes of JSON, and bytes that are sent as base64."""
    opened(browser, two_versions)
    signature_shown(browser, "identity_bytes", ["x"])
    browser.run("document.querySelector('input[name=kind][value=form]').click()")
    plain = 'it\'s "fine" $HOME'
    for written, text in (
        (plain, plain),
        (r'["a\/b \ud83d\ude00 \u00e9"]', "a/b \U0001f600 \u00e9"),
    ):
        browser.type("#input-0", written)
        ask(browser)
        assert browser.text(LABEL) == text
        assert text in run("Command line", command_shown(browser, "Command line"))
        assert json.loads(run("curl", command_shown(browser, "curl")))["outputs"] == [text]
        assert _elements(run("Python", command_shown(browser, "Python"))) == [text.encode()]

    browser.give("#fields input[type=file]", image)
    browser.wait(lambda: "takes the place" in browser.text("#fields .row .muted"))
    content = image.read_bytes()
    assert _elements(run("Python", command_shown(browser, "Python"))) == [content]
    told = json.loads(run("curl", command_shown(browser, "curl")))["outputs"]
    assert told == [{"b64": base64.b64encode(content).decode()}]
    said = command_shown(browser, "Command line").replace("--json -", "--json - --output json")
    assert base64.b64encode(content).decode() in run("Command line", said)
    ask(browser)
    assert "that are not text" in browser.text(".answer")
    browser.click("#fields .row button")
    assert plain not in command_shown(browser, "curl")
    assert "b64" not in command_shown(browser, "curl")


def _elements(printed: str) -> Any:
    """Return the elements of the one array in what Python prints of an answer."""
    return ast.literal_eval(printed.partition("array(")[2].partition(", dtype")[0])


def test_of_whole_numbers(browser: Browser, two_versions: EchoServer, run: Any) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "identity_uint64", ["x"])
    browser.type("#input-0", f"[{2**64 - 1}, {2**53 + 1}]")
    ask(browser)
    assert browser.texts(".rows td") == [str(2**64 - 1), str(2**53 + 1)]
    for kind in KINDS:
        said = run(kind, command_shown(browser, kind))
        assert str(2**64 - 1) in said
        assert str(2**53 + 1) in said


def test_of_a_table(browser: Browser, two_versions: EchoServer, tmp_path: Path, run: Any) -> None:
    """Its name says nothing, so that it is chosen as a table."""
    opened(browser, two_versions)
    signature_shown(browser, "two", ["a", "b"])
    browser.run("document.querySelector('input[name=kind][value=table]').click()")
    table = tmp_path / "-rows of $(touch pwned)"
    table.write_text("a,b\n" + "".join(f"{row},{row / 4}\n" for row in range(400)))
    browser.give("#table-file", table)
    browser.wait(lambda: len(browser.texts(".rows tbody tr")) == 200)
    assert "and 200 rows more" in browser.text(".rows .muted")

    said = run("Command line", command_shown(browser, "Command line")).splitlines()
    assert len(said) == 401
    assert said[5] == "5\t4.0\t5.5"
    curl = command_shown(browser, "curl")
    browser.run("document.querySelector('#command-note button').click()")
    saved = browser.wait(lambda: next(iter(_saved(browser)), None))
    saved.rename(tmp_path / "request.json")
    answer = json.loads(run("curl", curl))["outputs"]
    assert (answer["sum"][4], answer["product"][4]) == (5.5, 4.0)
    assert "5.5" in run("Python", command_shown(browser, "Python"))
    assert not (tmp_path / "pwned").exists()


def _saved(browser: Browser) -> list[Path]:
    """Return the requests that the browser has saved and written whole."""
    return [path for path in browser.saved.glob("request*.json") if path.stat().st_size]


def test_over_tls_with_a_token(browser: Browser, tmp_path: Path, image: Path, run: Any) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    ca, cert, key = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(str(ca))
    certificate.cert_chain_pems[0].write_to_path(str(cert))
    certificate.private_key_pem.write_to_path(str(key))
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    model = EchoModel(tmp_path / "horses")
    model.put(1)
    flags = (f"--token-file={token}", f"--tls-cert={cert}", f"--tls-key={key}")
    with running(model, tmp_path / "log", *flags) as server:
        wait_until(server.has_loaded)
        unlocked(browser, server)
        browser.drop(image, "image/jpeg")
        assert browser.text(LABEL) == "sorrel"
        for kind, added in (
            ("Command line", "--tls-ca FILE"),
            ("curl", "--cacert FILE"),
            ("Python", 'tls=mlserve.Tls(ca=Path("FILE"))'),
        ):
            text = command_shown(browser, kind)
            assert TOKEN not in text
            note = browser.text("#command-note")
            assert "MLSERVE_TOKEN" in note
            assert added in note
            given = added.replace("FILE", str(ca))
            if kind == "Python":
                text = text.replace(") as client", f", {given}) as client")
                text = f"import mlserve\nfrom pathlib import Path\n{text}"
            else:
                text = f"{text} {given}"
            assert "sorrel" in run(kind, text, MLSERVE_TOKEN=TOKEN)
