"""Reading a log: its end, and on while it is written, rotated or cut off."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mlserve.launch.logs import LastWords, follow, last_lines, last_words, log_path, rotate
from tests.harness.command import MLSERVE


def dead() -> bool:
    return False


def writer(*steps: Callable[[], object]) -> Callable[[], bool]:
    """A writer that does one step each time it is asked whether it is alive, then is gone."""
    left: Iterator[Callable[[], object]] = iter(steps)

    def is_alive() -> bool:
        step = next(left, None)
        if step is not None:
            step()
        return step is not None

    return is_alive


@pytest.mark.parametrize(
    ("tail", "expected"),
    [(None, b"a\nb\nc\n"), (0, b""), (1, b"c\n"), (2, b"b\nc\n"), (9, b"a\nb\nc\n")],
)
def test_the_end_of_a_log(tmp_path: Path, tail: int | None, expected: bytes) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"a\nb\nc\n")

    assert b"".join(follow(log, tail, dead)) == expected


@pytest.mark.parametrize("tail", [1, 3, 20_000])
def test_the_end_of_a_long_log(tmp_path: Path, tail: int) -> None:
    log = tmp_path / "x.log"
    lines = [b"line %d of a long log\n" % number for number in range(20_000)]
    log.write_bytes(b"".join(lines))

    assert b"".join(follow(log, tail, dead)) == b"".join(lines[-tail:])


def test_a_last_line_without_an_end_counts(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"a\nb")

    assert b"".join(follow(log, 1, dead)) == b"b"


def append(log: Path, data: bytes) -> Callable[[], None]:
    def write() -> None:
        with log.open("ab") as file:
            file.write(data)

    return write


def test_what_is_written_last_is_not_lost(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"start\n")

    is_alive = writer(append(log, b"more\n"), append(log, b"last\n"))

    assert b"".join(follow(log, None, is_alive)) == b"start\nmore\nlast\n"


def test_a_rotated_log_is_read_on(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"old\n")

    def rotate_and_write() -> None:
        append(log, b"end of old\n")()
        rotate(log)
        log.write_bytes(b"new\n")

    text = b"".join(follow(log, None, writer(rotate_and_write)))

    assert text == b"old\nend of old\nnew\n"
    assert (tmp_path / "x.log.1").read_bytes() == b"old\nend of old\n"


def test_a_log_that_is_cut_off_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"a long first line\n")

    def nothing() -> None:
        """Lets the log be read once before it is cut off."""

    is_alive = writer(nothing, lambda: log.write_bytes(b"new\n"), nothing)

    assert b"".join(follow(log, None, is_alive)) == b"a long first line\nnew\n"


def test_a_log_that_is_not_there_has_no_last_lines(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "x.log", 3) == []


@pytest.mark.server
def test_a_terminal_does_not_obey_what_strangers_put_into_a_log(home: Path) -> None:
    path = log_path("echo-m")
    rotate(path)
    wrong = b"a name: \x1b]0;owned\x07 \xc2\x9b31m \xe2\x80\xae \xff sorrel\n\tindented\n"
    path.write_bytes(wrong)
    piped = subprocess.run([*MLSERVE, "logs", "echo-m"], capture_output=True, check=True)
    assert piped.stdout == wrong
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*MLSERVE, "logs", "echo-m"], stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the end of the other side
        while part := os.read(ours, 4096):
            shown += part
    process.communicate()
    os.close(ours)
    assert b"sorrel" in shown
    assert b"\tindented" in shown
    for mark in (b"\x1b", b"\x07", b"\xc2\x9b", b"\xe2\x80\xae"):
        assert mark not in shown


# Why a server ended, read from its log: ours in both formats, TensorFlow Serving's, and others.

TEXT = """\
mlserve 0.1.0 runs: python -m mlserve.server
2026-01-02T03:04:05.678Z INFO loading version 1 of m
2026-01-02T03:04:05.679Z ERROR version 1 is not served: no such provider
2026-01-02T03:04:05.680Z ERROR no such provider
2026-01-02T03:04:05.680Z ERROR hint: leave --provider out
"""
JSON = """\
{"ts": "2026-01-02T03:04:05.680Z", "level": "ERROR", "logger": "a", "message": "no such provider"}
{"ts": "2026-01-02T03:04:05.680Z", "level": "ERROR", "logger": "a", "message": "hint: leave it"}
{"ts": "2026-01-02T03:04:05.681Z", "level": "INFO", "logger": "a", "message": "bye"}
{"ts": "2026-01-02T03:04:05.6
"""
BUG = """\
2026-01-02T03:04:05.680Z CRITICAL an unhandled error
Traceback (most recent call last):
  File "x.py", line 1, in <module>
KeyError: 'x'
"""
JSON_BUG = (
    '{"ts": "2026-01-02T03:04:05.680Z", "level": "CRITICAL", "message": "an error that nobody '
    'took", "exception": "Traceback (most recent call last):\\n  File\\nKeyError: \'x\'"}\n'
)
MODEL_SERVER = """\
2026-01-02 03:04:05.678901: I tensorflow_serving/model_servers/server.cc:77] Building
2026-01-02 03:04:05.678902: E tensorflow_serving/util/retrier.cc:37] Loading servable: {name: m \
version: 1} failed: INVALID_ARGUMENT: no such file
"""
LOADER = "tensorflow_model_server: error while loading shared libraries: libm.so.7: cannot open\n"


@pytest.mark.parametrize(
    ("log", "message", "hint"),
    [
        (TEXT, "no such provider", "leave --provider out"),
        (JSON, "no such provider", "leave it"),
        (BUG, "KeyError: 'x'", None),
        (JSON_BUG, "KeyError: 'x'", None),
        ("x Z\n" + TEXT.replace("hint: ", "no hint: "), "no hint: leave --provider out", None),
        (
            MODEL_SERVER,
            "Loading servable: {name: m version: 1} failed: INVALID_ARGUMENT: no such file",
            None,
        ),
        (LOADER, LOADER.strip(), None),
        ("Fatal Python error: init_fs_encoding\n", "Fatal Python error: init_fs_encoding", None),
    ],
)
def test_the_last_error_is_found_with_its_hint(log: str, message: str, hint: str | None) -> None:
    assert last_words(log.splitlines()) == LastWords(message, hint)


@pytest.mark.parametrize("log", ["", "all is well\n", TEXT.replace("ERROR", "INFO")])
def test_a_log_without_an_error_tells_none(log: str) -> None:
    assert last_words(log.splitlines()) is None


@pytest.mark.server
def test_a_name_may_be_meant_for_a_server_that_has_stopped(home: Path) -> None:
    rotate(log_path("echo-defects"))
    log_path("echo-defects").write_text("begun\n")

    done, other = (
        subprocess.run([*MLSERVE, "logs", name], capture_output=True, text=True, check=False)
        for name in ("defects", "xyz")
    )

    assert (done.returncode, other.returncode) == (5, 5)
    assert "did you mean mlserve logs echo-defects, which left a log?" in done.stderr
    assert "did you mean" not in other.stderr
