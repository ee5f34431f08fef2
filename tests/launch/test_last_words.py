"""Why a server ended, read from its log: ours in both formats, TensorFlow Serving's, and others."""

from __future__ import annotations

import pytest

from mlserve.launch.logs import LastWords, last_words

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
