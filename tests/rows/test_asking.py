"""Batches of rows, against a client that is a function: order, halves, and what ends a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlserve.client.retries import Retries
from mlserve.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InputTooLarge,
    InvalidInput,
    MlserveError,
    Unavailable,
)
from mlserve.rows.asking import Asking, ReadyRow, RowAnswer
from mlserve.rows.table import BadRow, Place


class Answer(dict[str, Any]):
    """Outputs as the client gives them."""

    timings = SimpleNamespace(total=1.0)
    version = 1


class Model:
    """A client whose answers `run` computes from the inputs; `asked` are the rows of each call."""

    retries = Retries()

    def __init__(self, run: Callable[[list[Any]], Mapping[str, Any]]) -> None:
        self._run = run
        self.asked: list[list[Any]] = []

    def infer(self, inputs: Mapping[str, Any], **options: Any) -> Answer:
        self.asked.append(inputs["x"])
        return Answer(self._run(inputs["x"]))

    def infer_many(self, items: Iterator[Mapping[str, Any]], **options: Any) -> Iterator[Any]:
        for inputs in items:
            try:
                yield self.infer(inputs)
            except MlserveError as error:
                yield error


def _doubled(rows: list[Any]) -> Mapping[str, Any]:
    if any(row == "bad" for row in rows):
        raise InvalidInput("a bad row")
    return {"y": [2 * row for row in rows]}


def _row(number: int, value: Any) -> ReadyRow | BadRow:
    place = Place("rows.csv", number)
    if isinstance(value, MlserveError):
        return BadRow(place, InvalidInput(value.message))
    return ReadyRow(place, {"x": value})


def _outcomes(model: Model, *values: Any, size: int = 4, fixed: Sequence[str] = ()) -> list[Any]:
    """For each row its number and its output, or its error's message."""
    rows = (_row(number, value) for number, value in enumerate(values, start=1))
    asking = Asking(cast("Any", model), size, timeout=5, whole=set(fixed))
    return [
        (
            outcome.place.number,
            outcome.outputs["y"] if isinstance(outcome, RowAnswer) else outcome.error.message,
        )
        for outcome in asking.outcomes(rows)
    ]


def test_rows_go_in_batches_and_come_back_in_order() -> None:
    model = Model(_doubled)

    assert _outcomes(model, 1, 2, 3, 4, 5) == [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]
    assert model.asked == [[1, 2, 3, 4], [5]]


def test_long_rows_go_in_requests_of_few() -> None:
    model = Model(lambda rows: {"y": [len(row) for row in rows]})
    rows = [_row(number, [0.0] * size) for number, size in enumerate([50, 50, 50, 120, 1, 1], 1)]
    asking = Asking(cast("Any", model), 4, timeout=5, most_values=100)
    outcomes = list(asking.outcomes(iter(rows)))

    assert [outcome.place.number for outcome in outcomes] == [1, 2, 3, 4, 5, 6]
    assert [[len(row) for row in asked] for asked in model.asked] == [[50, 50], [50, 120], [1, 1]]


def test_a_bad_row_takes_no_other_down() -> None:
    model = Model(_doubled)

    assert _outcomes(model, 1, 2, "bad", 4) == [(1, 2), (2, 4), (3, "a bad row"), (4, 8)]
    assert model.asked == [[1, 2, "bad", 4], [1, 2], ["bad", 4], ["bad"], [4]]


def test_rows_that_could_not_be_read_keep_their_place() -> None:
    unread = InvalidInput("ragged")
    found = _outcomes(Model(_doubled), unread, 1, unread, 2, unread, size=1)

    assert found == [(1, "ragged"), (2, 2), (3, "ragged"), (4, 4), (5, "ragged")]


def test_a_table_of_nothing_but_bad_rows() -> None:
    model = Model(_doubled)
    found = _outcomes(model, *[InvalidInput("ragged")] * 1000)

    assert found == [(number, "ragged") for number in range(1, 1001)]
    assert model.asked == []


def test_bad_rows_are_given_out_before_the_whole_table_is_read() -> None:
    """Those of a table in the wrong format would fill the memory."""
    model, read = Model(_doubled), 0

    def rows() -> Iterator[ReadyRow | BadRow]:
        nonlocal read
        for read in range(1, 10_001):
            yield _row(read, 7 if read == 1 else InvalidInput("ragged"))

    outcomes = Asking(cast("Any", model), 4, timeout=5).outcomes(rows())

    assert next(outcomes).place.number == 1
    for number, outcome in enumerate(outcomes, start=2):
        assert outcome.place.number == number
        assert read - number < 1000
    assert read == 10_000
    assert model.asked == [[7]]


def test_one_row_at_a_time_a_bad_one_is_told_at_once() -> None:
    """Before the next row is read, which may not be there before the answer is."""
    read = 0

    def rows() -> Iterator[ReadyRow | BadRow]:
        nonlocal read
        for read, value in enumerate((1, InvalidInput("ragged"), InvalidInput("ragged"), 4), 1):
            yield _row(read, value)

    asking = Asking(cast("Any", Model(_doubled)), 1, timeout=5, parallel=1)

    assert [(outcome.place.number, read) for outcome in asking.outcomes(rows())] == [
        (number, number) for number in range(1, 5)
    ]


def test_a_batch_that_is_too_large_makes_the_next_ones_smaller() -> None:
    def run(rows: list[Any]) -> Mapping[str, Any]:
        if len(rows) > 2:
            raise InputTooLarge("too many")
        return _doubled(rows)

    model = Model(run)

    assert _outcomes(model, *range(20), size=8) == [(n + 1, 2 * n) for n in range(20)]
    assert [len(rows) for rows in model.asked[-4:]] == [2, 2, 2, 2]


def test_an_answer_that_is_not_by_rows_is_asked_again_row_by_row() -> None:
    model = Model(lambda rows: {"y": sum(rows)})

    assert _outcomes(model, 1, 2, 3) == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_constant_as_long_as_a_batch_is_not_cut_into_rows(size: int) -> None:
    constant = [7, 8]
    model = Model(lambda rows: {"x": rows, "y": constant})

    assert _outcomes(model, *range(5), size=size, fixed=["y"]) == [
        (number, constant) for number in range(1, 6)
    ]


def test_an_answer_that_was_not_by_rows_once_is_never_cut() -> None:
    model = Model(lambda rows: {"x": rows, "y": [7, 8]})

    assert _outcomes(model, 1, 2, 3, 4, 5, size=3) == [(n, [7, 8]) for n in range(1, 6)]
    assert [len(rows) for rows in model.asked] == [3, 1, 1, 1, 1, 1]


def test_rows_that_were_cut_by_chance_end_the_run() -> None:
    model = Model(lambda rows: {"y": [7, 8]})
    with pytest.raises(InferenceFailed, match="the output 'y' has 2 rows for 1 row") as wrong:
        _outcomes(model, 1, 2, 3, size=2)

    assert wrong.value.hint == "the answers before are wrong: ask again, with batch=1"


def test_a_model_that_drops_the_first_dimension_of_a_single_row() -> None:
    model = Model(lambda rows: {"y": [[r, r] for r in rows] if len(rows) > 1 else [rows[0]] * 2})

    assert _outcomes(model, 1, 2, 3, size=2) == [(1, [1, 1]), (2, [2, 2]), (3, [3, 3])]


def test_no_time_is_an_error_of_the_rows_of_one_request() -> None:
    def run(rows: list[Any]) -> Mapping[str, Any]:
        if 1 in rows:
            raise DeadlineExceeded("too late")
        return _doubled(rows)

    model = Model(run)

    assert _outcomes(model, 1, 2, 3, 4, size=2) == [
        (1, "too late"),
        (2, "too late"),
        (3, 6),
        (4, 8),
    ]
    assert len(model.asked) == 2


def test_a_server_that_is_gone_ends_the_run() -> None:
    def run(rows: list[Any]) -> Mapping[str, Any]:
        if 3 in rows:
            raise Unavailable("gone")
        return _doubled(rows)

    rows = (_row(number, number) for number in range(1, 9))
    outcomes = Asking(cast("Any", Model(run)), 2, timeout=5).outcomes(rows)

    assert [next(outcomes).place.number for _ in range(2)] == [1, 2]
    with pytest.raises(Unavailable, match="gone"):
        next(outcomes)
