"""The README: its size, its picture, and the demo. `test_docs.py` runs its commands."""

from __future__ import annotations

import html
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.documents import ROOT, blocks

README = ROOT / "README.md"
DEMO = ROOT / "build" / "demo"


def test_it_is_short_and_wrapped() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 130
    assert not [line for line in lines if len(line) > 100]


def test_its_commands_are_run() -> None:
    assert [language for language, _ in blocks(README)] == ["bash", "bash", "python", "bash"]


def test_every_command_is_in_the_readme() -> None:
    from mlserve.cli.app import app

    text = README.read_text()
    group: Any = typer.main.get_command(app)
    names = list(group.commands)
    assert names
    for name in names:
        assert f"mlserve {name}" in text or f"`{name}`" in text, name


def test_the_picture_shows_the_first_commands_and_what_they_print() -> None:
    picture = (ROOT / "docs" / "images" / "terminal.svg").read_text()
    texts = re.findall(r"<text[^>]*>(.*?)</text>", picture)
    shown = [html.unescape(re.sub("<[^>]*>", "", text)).removeprefix("$ ") for text in texts]
    commands = next(code for language, code in blocks(README) if language == "bash").splitlines()
    assert len(commands) == 4
    assert [line for line in shown if line in commands] == commands, "make pictures"
    assert "sorrel" in shown
    assert str(Path.home()) not in picture


def test_a_recording_has_what_stays_on_the_screen() -> None:
    recorder = runpy.run_path(str(ROOT / "docs" / "film.py"))
    written = "\x1b[?25lstarting 1\r\x1b[2Kstarting 2\n\r\x1b[1A\x1b[2Kready\r\nnext\r\n"
    assert recorder["screen"](written) == "ready\nnext\n"


def _environment(*, path: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key != "MLSERVE_HOME"}
    return {**inherited, "PATH": path}


@pytest.mark.tensorflow
@pytest.mark.server
def test_the_demo_prints_sorrel_from_real_weights() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / "examples" / "demo.sh"],
        env=_environment(path=path),
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    top = next(line.split("\t") for line in lines if line.count("\t") == 2)
    assert "sorrel" in lines
    assert top[2] == "sorrel"
    assert 0.6 < float(top[0]) < 1
    assert "random" not in done.stdout + done.stderr
    _require_it_works_as_the_next_command(lines[-1])


def _require_it_works_as_the_next_command(command: str) -> None:
    """Where the demo ends: in a shell that knows nothing of it, a question can be asked."""
    script = f"set -eu\n{command}\nmlserve predict examples/horse.jpg --timeout 5\n"
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=ROOT,
            env=_environment(path=os.defpath),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        subprocess.run(
            [sys.executable, "-m", "mlserve", "down", "--all"],
            env={**os.environ, "MLSERVE_HOME": str(DEMO)},
            check=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "sorrel"
