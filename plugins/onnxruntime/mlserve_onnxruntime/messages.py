"""ONNX Runtime's error messages in one line, without its own numbers and names."""

from __future__ import annotations

import re

from mlserve.errors import bounded

_PREFIX = re.compile(r"^\s*\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"\S*/onnxruntime/core/\S+:\d+ .*?\) ")


def plain(error: BaseException | str) -> str:
    """What the message says is wrong, in one line."""
    text = _SOURCE.sub("", _PREFIX.sub("", str(error)))
    return bounded(text) or "no reason given"
