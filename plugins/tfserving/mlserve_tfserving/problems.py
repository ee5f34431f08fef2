"""Reads what a check in the graph says is wrong with an image back out of TensorFlow's message.

The graph writes the words of `mlserve.image_problems` into the message of a failed check, so that
any server that runs the SavedModel says them; the runner reads them back to choose the error.
"""

from __future__ import annotations

import re

_IN_GRAPH = re.compile(r"assertion failed: \[image (\d+): ([^\]]+)\]")


def found_in_graph(message: str) -> tuple[int, str] | None:
    """The index of the refused image and what is wrong with it, from TensorFlow's message."""
    match = _IN_GRAPH.search(message)
    return None if match is None else (int(match[1]), match[2])
