"""Lengths of time in words."""

from __future__ import annotations

import pytest

from mlserve.deadline import in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (2.5, "2.5 s"),
        (0.1, "0.1 s"),
        (0.09999, "0.1 s"),
        (0.0995, "0.1 s"),
        (0.0994, "99 ms"),
        (0.0015, "1.5 ms"),
        (0.0, "0 ms"),
    ],
)
def test_a_length_of_time(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
