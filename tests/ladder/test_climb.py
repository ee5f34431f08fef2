"""What a header says of the rungs, and what is refused."""

from __future__ import annotations

import pytest

from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded
from mlserve.ladder.climb import Fate, RowRung, in_header, require_certain

INT8, FP32 = RowRung(0, "int8", Fate.CERTAIN), RowRung(1, "fp32", Fate.CERTAIN)
UNSURE, REFUSED = RowRung(0, "int8", Fate.UNCERTAIN), RowRung(0, "int8", Fate.REFUSED)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], ""),
        ([INT8], "int8"),
        ([INT8, FP32, FP32, UNSURE], "int8, fp32;rows=2, int8;uncertain"),
        ([REFUSED, REFUSED], "int8;refused;rows=2"),
        ([INT8, FP32] * 25, ", ".join(["int8, fp32"] * 25)),
        ([INT8, FP32, FP32] * 26, "int8;rows=26, fp32;rows=52"),
    ],
)
def test_a_header_lists_the_rungs_of_the_rows(rows: list[RowRung], text: str) -> None:
    assert in_header(rows) == text


def test_uncertain_answers_are_answers() -> None:
    require_certain([INT8, UNSURE, FP32], 1.0, Deadline.after(1))


def test_a_refusal_says_what_it_would_have_taken() -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        require_certain([REFUSED], 0.25, Deadline.after(0.2))
    assert caught.value.message == (
        "no certain answer within 0.2 s: the answer of int8 may have another label on the next "
        "rung of the ladder, which needs about 0.25 s"
    )
