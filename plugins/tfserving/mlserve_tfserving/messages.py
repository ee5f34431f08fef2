"""TensorFlow's error messages without graph node names and stack traces."""

from __future__ import annotations

import re

_AT_NODE = re.compile(r"(?:^|\n)([^\n]+)\n\s*\[\[\{\{node")
_ROOT_ERROR = re.compile(r"\(0\) [\w ]+: ([^\n]+)")
_NOISE = re.compile(r"\s*\[Op:\w+\]|\{\{[^}]*\}\}\s*")


def plain(message: str) -> str:
    """The one line of the message that says what is wrong."""
    for pattern in (_ROOT_ERROR, _AT_NODE):
        match = pattern.search(message)
        if match:
            return _NOISE.sub("", match[1]).strip()
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return _NOISE.sub("", lines[0]).strip() if lines else "no reason given"
