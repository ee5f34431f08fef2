"""Numbers in JSON that no float holds: `1e400` is refused, as by TensorFlow Serving's parser.

Python's own reads it as infinity, which JSON has a word of its own for.
"""

from __future__ import annotations

import math
import re

_LARGE = re.compile(r"\+?[0-9]{3}")


def has_large_exponent(text: str) -> bool:
    """Whether a number in the text may have an exponent above 99; it may be a part of a string.

    A pattern for all of that takes four times as long on numbers without an exponent.
    """
    return any(_has_large_after(text, mark) for mark in "eE")


def finite(text: str) -> float:
    """The number. Raises ValueError for one that is too large."""
    value = float(text)
    if math.isinf(value):
        raise ValueError("Number too big to be stored in double.")
    return value


def _has_large_after(text: str, mark: str) -> bool:
    place = text.find(mark)
    while place >= 0:
        if _LARGE.match(text, place + 1):
            return True
        place = text.find(mark, place + 1)
    return False
