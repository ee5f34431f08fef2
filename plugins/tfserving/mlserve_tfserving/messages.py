"""TensorFlow's error messages without graph node names and stack traces."""

from __future__ import annotations

import re

from mlserve.errors import bounded

_AT_NODE = re.compile(r"(?:^|\n)([^\n]+)\n\s*\[\[\{\{node")
_ROOT_ERROR = re.compile(r"\(0\) [\w ]+: ([^\n]+)")
_NOISE = re.compile(r"\s*\[Op:\w+\]|\{\{[^}]*\}\}\s*")


def plain(message: str) -> str:
    """The one line of the message that says what is wrong."""
    for pattern in (_ROOT_ERROR, _AT_NODE):
        match = pattern.search(message)
        if match:
            return bounded(_NOISE.sub("", match[1]))
    lines = [line for line in message.splitlines() if line.strip()]
    return bounded(_NOISE.sub("", lines[0])) if lines else "no reason given"
