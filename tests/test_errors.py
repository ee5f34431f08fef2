"""The text of other libraries in our messages: one line, bounded, its first and last words kept."""

from __future__ import annotations

import pytest

from mlserve.errors import ExportError, InferenceFailed, bounded, reason_of


def test_a_short_text_is_kept_on_one_line() -> None:
    assert bounded("  one\n\n  two\tthree\r\n") == "one two three"


def test_a_long_text_keeps_its_first_and_its_last_line() -> None:
    text = "\n".join(["what happened", *("noise" * 9 for _ in range(3000)), "and why"])
    assert bounded(text) == "what happened ... and why"


def test_long_lines_are_cut_in_the_middle() -> None:
    text = bounded("begin" + "x" * 115_000 + "end\n\ncause: " + "y" * 9000 + "last")
    assert len(text) < 650
    assert text.startswith("beginxxx")
    assert "xend ... cause: yy" in text
    assert text.endswith("yylast")


@pytest.mark.parametrize("size", [599, 600, 601, 5000])
def test_one_line_of_any_length_is_bounded(size: int) -> None:
    assert len(bounded("a" * size)) <= 605


def test_what_a_terminal_would_act_on_becomes_an_escape() -> None:
    assert bounded("\x1b[31mred\x07\u202e") == r"\x1b[31mred\x07\u202e"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("name"), "KeyError: 'name'"),
        (ValueError(), "ValueError"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (ValueError("ValueError: said twice"), "ValueError: said twice"),
        (ExportError("our own words"), "our own words"),
    ],
)
def test_the_name_of_the_exception_is_kept(error: Exception, said: str) -> None:
    assert reason_of(error) == said


def test_no_message_of_ours_is_endless_whatever_got_into_it() -> None:
    error = InferenceFailed("begin" + "x" * 115_000 + "end")
    assert len(error.message) <= 4000
    assert (error.message[:5], error.message[-3:]) == ("begin", "end")
