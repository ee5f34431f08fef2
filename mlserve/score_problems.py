"""What can be wrong with the scores of one image: the words and the error, equal on every backend.

A score has to be a finite number. NaN compares with nothing, so that "the best class" would be
class 0, whatever the image; an infinite score has overflowed and ranks nothing either. One backend
puts the check into a graph, another runs it in Python.
"""

from __future__ import annotations

import re

from mlserve.errors import InferenceFailed

NAN = "NaN"
INFINITE = "infinite"
PROBLEM = re.compile(rf"(\d+) of (\d+) scores are ({NAN}|{INFINITE})")
"""What `problem_text` gives, wherever it stands in the message of a server."""


def problem_text(bad: int | str, classes: int, kind: str) -> str:
    """The words for `bad` of the scores of that many classes; `kind` is NAN or INFINITE."""
    return f"{bad} of {classes} scores are {kind}"


def scores_failed(index: int, batch: int, text: str) -> InferenceFailed:
    """The error for image `index` of a batch of that size; `text` is a `problem_text`."""
    what = "the image" if batch == 1 else f"image {index} of {batch}"
    return InferenceFailed(
        f"the model gives no answer for {what}: {text}",
        hint="check the model's weights, and the range of the pixels that it was trained on "
        "(mlserve export --scale)",
    )
