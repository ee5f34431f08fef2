"""Reads what a check in the graph says is wrong with an image back out of TensorFlow's message.

The graph writes the words of `mlserve.images` into the message of a failed check, so that
any server that runs the SavedModel says them; the runner reads them back to choose the error.
"""

from __future__ import annotations

import re
from typing import Any

from mlserve.errors import InferenceFailed
from mlserve.images import PROBLEM, scores_failed

_IN_GRAPH = re.compile(r"assertion failed: \[image (\d+): ([^\]]+)\]")


def found_in_graph(message: str) -> tuple[int, str] | None:
    """The index of the refused image and what is wrong with it, from TensorFlow's message."""
    match = _IN_GRAPH.search(message)
    return None if match is None else (int(match[1]), match[2])


def bad_scores(error: Any, batch: int) -> InferenceFailed | None:
    """What mlserve says when the graph found scores that are not finite; None when it did not."""
    found = found_in_graph(str(error.message))
    if found is None or PROBLEM.fullmatch(found[1]) is None:
        return None
    return scores_failed(found[0], batch, found[1])
