"""Commands whose standard streams are full, closed, or read by nobody: an error, never silence."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may stand still for longer than the default of 5 s."""
    monkeypatch.setenv("MLSERVE_TIMEOUT", "60")


def shell(words: list[Any], redirections: str) -> subprocess.CompletedProcess[str]:
    """Runs the command with these redirections of bash."""
    command = shlex.join([sys.executable, "-m", "mlserve", *map(str, words)])
    return subprocess.run(
        ["bash", "-c", f"{command} {redirections}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def unread(words: list[Any]) -> subprocess.CompletedProcess[str]:
    """Runs the command with a pipe as its output that nobody holds at the other end."""
    code = "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1); os.close(w)\n"
    code += "os.execv(sys.executable, [sys.executable, '-m', 'mlserve', *sys.argv[1:]])"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def commands(echo: Any, photo: Path, tmp_path: Path) -> dict[str, list[Any]]:
    at = ["--endpoint", echo.grpc, "--model", "inception_v3"]
    return {
        "predict": ["predict", photo, *at],
        "predict json": ["predict", photo, *at, "--output", "json"],
        "predict jsonl": ["predict", photo, photo, *at, "--output", "jsonl"],
        "predict many": ["predict", photo, photo, *at],
        "predict npz": ["predict", "--input", f"image=@{photo}", *at, "--output", "npz"],
        "status": ["status", *at],
        "metadata": ["metadata", *at, "--output", "json"],
        "plugins": ["plugins"],
        "ps": ["ps", "--output", "json"],
        "doctor": ["doctor"],
    }


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        (">/dev/full", "standard output cannot be written: No space left on device"),
        (">&-", "standard output is closed"),
        (None, "standard output cannot be written: Broken pipe"),
    ],
    ids=["full", "closed", "unread"],
)
@pytest.mark.parametrize(
    "name",
    [
        *("predict", "predict json", "predict jsonl", "predict many", "predict npz"),
        *("status", "metadata", "plugins", "ps", "doctor"),
    ],
)
def test_an_answer_is_never_lost_without_a_word(
    commands: dict[str, list[Any]], name: str, redirection: str | None, message: str
) -> None:
    words = commands[name]
    done = unread(words) if redirection is None else shell(words, redirection)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if message in line]
    assert len(errors) == 1, done.stderr
    if errors[0].startswith("{"):
        assert json.loads(errors[0])["error"]["kind"] == "output_lost"
    else:
        assert errors == [f"error: {message}"]
        assert "hint: " in done.stderr


def test_a_closed_input_is_an_error(echo: Any) -> None:
    done = shell(["predict", "-", "--endpoint", echo.grpc, "--model", "inception_v3"], "<&-")
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard input (-) is closed\nhint: ")


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_a_lost_error_leaves_the_exit_code(echo: Any, photo: Path, redirection: str) -> None:
    at = ["--endpoint", echo.grpc, "--model", "inception_v3"]
    done = shell(["predict", photo, *at], redirection)
    assert (done.returncode, done.stdout) == (0, "sorrel\n")
    missing = shell(["predict", f"{photo}.gone", *at], redirection)
    assert (missing.returncode, missing.stdout) == (2, "")
