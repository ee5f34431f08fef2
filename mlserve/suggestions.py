"""Did you mean: the known name that is nearest to one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LIKENESS = 0.7
"""From difflib's 0 to 1; 0.75 are two letters that changed places in a word of four."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` was probably meant to be; None when none is like it.

    A part counts too: `onnx` is meant to be `onnxruntime`, when no other name has that part.
    """
    names = {name.lower(): name for name in known}
    asked = word.lower()
    close = get_close_matches(asked, names, n=1, cutoff=_LIKENESS)
    if close:
        return names[close[0]]
    parts = [name for lower, name in names.items() if _is_part(asked, lower)]
    return parts[0] if len(parts) == 1 else None


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """`did you mean NAME? ` to begin a hint with, `before` in front of the name; else nothing."""
    name = nearest(word, known)
    return "" if name is None else f"did you mean {before}{name}? "


def _is_part(asked: str, name: str) -> bool:
    shortest = 2
    return len(asked) >= shortest and (asked in name or name in asked)
