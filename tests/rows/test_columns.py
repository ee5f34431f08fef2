"""From columns to inputs: by name, as a matrix by the server's names, or in the table's order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from mlserve.client import ModelMetadata
from mlserve.errors import InvalidInput, UsageError
from mlserve.rows.columns import Plan, named_columns, plan
from mlserve.rows.table import Place, Row, Table
from mlserve.tensors import DType, Signature, TensorSpec

PLACE = Place("rows.csv", 1, 2)


def _signature(*specs: TensorSpec, optional: Sequence[str] = ()) -> Signature:
    return Signature("serving_default", specs, (), frozenset(optional))


def _spec(name: str, *shape: int | None, dtype: DType = DType.FLOAT32) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


MATRIX = _signature(_spec("x", None, 2))


def _csv(cells: Mapping[str, str], **options: Any) -> tuple[Table, Row]:
    row = Row(PLACE, cells)
    return Table("rows.csv", (*cells,), iter([row]), is_text=True, is_fixed=True, **options), row


def _planned(
    cells: Mapping[str, str], signature: Signature, named: Any = None, **options: Any
) -> tuple[Plan, dict[str, Any]]:
    table, row = _csv(cells, **options)
    found = plan(table, row, signature, named or {})
    return found, found.inputs(row)


def test_a_column_goes_to_the_input_of_its_name() -> None:
    signature = _signature(_spec("age", None), _spec("city", None, dtype=DType.BYTES))
    found, inputs = _planned({"city": "Bern", "id": "7", "age": "41"}, signature)

    assert inputs == {"age": 41.0, "city": "Bern"}
    assert (found.unused, found.is_by_order) == (("id",), False)


def test_the_servers_names_put_columns_in_their_order() -> None:
    found, inputs = _planned({"b": "2", "label": "no", "a": "1"}, MATRIX, {"x": ("a", "b")})

    assert inputs == {"x": [1.0, 2.0]}
    assert (found.unused, found.is_by_order) == (("label",), False)


def test_without_names_the_columns_of_numbers_are_taken_in_order() -> None:
    found, inputs = _planned({"b": "2", "species": "setosa", "a": ""}, MATRIX)

    assert inputs["x"][0] == 2.0
    assert math.isnan(inputs["x"][1])
    assert (found.unused, found.is_by_order) == (("species",), True)


def test_the_index_that_pandas_writes_is_left_out() -> None:
    found, inputs = _planned({"": "17", "a": "1", "b": "2"}, MATRIX)

    assert inputs == {"x": [1.0, 2.0]}
    assert found.unused == ("",)


def test_a_table_without_a_header_is_taken_in_order_by_any_names() -> None:
    found, inputs = _planned({"1": "5", "2": "6"}, MATRIX, {"x": ("a", "b")}, has_names=False)

    assert inputs == {"x": [5.0, 6.0]}
    assert found.is_by_order


def test_more_columns_of_numbers_than_the_model_takes() -> None:
    with pytest.raises(UsageError) as wrong:
        _planned({"a": "1", "b": "2", "target": "0"}, MATRIX)

    assert wrong.value.message == (
        "rows.csv has 3 columns of numbers; the model takes 2 as x: float32[?,2], and the server "
        "does not name them"
    )


def test_a_missing_column_says_which_one_it_may_be() -> None:
    with pytest.raises(UsageError) as wrong:
        _planned({"a": "1", "heigth": "2"}, MATRIX, {"x": ("a", "height")})

    assert wrong.value.message == "rows.csv has no column 'height'"
    assert wrong.value.hint == (
        "is it 'heigth'? rename that to 'height'; the model takes the columns 'a', 'height'"
    )


def test_a_single_letter_is_nobody_s_other_name() -> None:
    with pytest.raises(UsageError) as refused:
        _planned({"a": "1"}, MATRIX, {"x": ("age", "height")})

    assert refused.value.hint == "the model takes the columns 'age', 'height'"


def test_an_optional_input_may_have_no_column() -> None:
    signature = _signature(_spec("a", None), _spec("b", None), optional=["b"])

    assert _planned({"a": "1"}, signature)[1] == {"a": 1.0}
    assert _planned({"a": "1", "b": "2"}, signature)[1] == {"a": 1.0, "b": 2.0}


def test_an_optional_input_that_only_later_rows_have_is_not_dropped_silently() -> None:
    signature = _signature(_spec("a", None), _spec("b", None), optional=["b"])
    rows = [Row(PLACE, {"a": 1}), Row(PLACE, {"a": 1, "b": 2})]
    found = plan(Table("rows.jsonl", ("a",), iter(rows)), rows[0], signature, {})

    assert found.inputs(rows[0]) == {"a": 1.0}
    with pytest.raises(InvalidInput) as wrong:
        found.inputs(rows[1])
    assert wrong.value.message == "it has 'b', which the first row does not have"


@pytest.mark.parametrize("text", ['["a"]', "[N/A]", "007", ""])
@pytest.mark.parametrize("shape", [(None,), (None, 1), (None, 1, 1)])
def test_text_is_sent_as_it_stands(text: str, shape: tuple[int | None, ...]) -> None:
    _, inputs = _planned({"t": text}, _signature(_spec("t", *shape, dtype=DType.BYTES)))

    for _ in shape[1:]:
        [inputs["t"]] = inputs["t"]
    assert inputs == {"t": text}


def test_an_element_that_is_a_list_of_one() -> None:
    assert _planned({"a": "1"}, _signature(_spec("a", None, 1)))[1] == {"a": [1.0]}
    assert _planned({"a": "[1]"}, _signature(_spec("a", None, 1)))[1] == {"a": [1.0]}


def test_a_cell_of_csv_may_be_a_vector() -> None:
    assert _planned({"x": "[1, 2]"}, MATRIX)[1] == {"x": [1.0, 2.0]}


def test_a_cell_that_does_not_fit_names_its_column() -> None:
    table, row = _csv({"a": "1", "b": "two"})
    found = plan(table, row, MATRIX, {"x": ("a", "b")})
    with pytest.raises(InvalidInput) as wrong:
        found.inputs(row)

    assert wrong.value.message == "column 'b': 'two' is not a number"
    assert wrong.value.hint == "the model takes x: float32[?,2]"


def test_objects_are_checked_one_by_one() -> None:
    rows = [Row(PLACE, {"a": 1, "b": None}), Row(PLACE, {"a": 1}), Row(PLACE, {"a": "1", "b": 2})]
    table = Table("rows.jsonl", ("a", "b"), iter(rows))
    found = plan(table, rows[0], MATRIX, {"x": ("a", "b")})

    assert math.isnan(found.inputs(rows[0])["x"][1])
    for row, message in (
        (rows[1], "there is no 'b'"),
        (rows[2], "column 'a': '1' is a string, not a number"),
    ):
        with pytest.raises(InvalidInput) as wrong:
            found.inputs(row)
        assert wrong.value.message == message


@pytest.mark.parametrize(("shape", "most"), [((None, 2), None), ((1,), 1), ((1, 2), 1)])
def test_a_model_that_takes_one_row(shape: tuple[int | None, ...], most: int | None) -> None:
    assert _planned({"x": "1"}, _signature(_spec("x", *shape)))[0].most_rows == most


@pytest.mark.parametrize(("shape", "takes"), [((), "a single value"), ((8, 2), "exactly 8 rows")])
def test_inputs_without_rows_are_refused(shape: tuple[int, ...], takes: str) -> None:
    with pytest.raises(UsageError, match=f"the model takes {takes} for x") as wrong:
        _planned({"x": "1"}, _signature(_spec("x", *shape)))

    assert wrong.value.hint == "send one request: --input x=VALUE"


@pytest.mark.parametrize(
    ("contract", "named"),
    [
        (None, {}),
        ({}, {}),
        ({"columns": {"x": ["a", "b"]}}, {"x": ("a", "b")}),
        ({"columns": {"y": ["a"], "x": "ab"}}, {}),
        ({"columns": {"x": [1, 2]}}, {}),
        ({"columns": ["a", "b"]}, {}),
    ],
)
def test_the_contract_may_name_columns(contract: Any, named: Any) -> None:
    metadata = ModelMetadata("m", 1, (MATRIX,), contract=contract)

    assert named_columns(metadata, MATRIX) == named


def test_a_column_called_as_the_matrix_that_it_is_in() -> None:
    named = {"x": ("x", "y")}

    assert _planned({"y": "2", "x": "1"}, MATRIX, named)[1] == {"x": [1.0, 2.0]}
    assert _planned({"x": "[1, 2]"}, MATRIX, named)[1] == {"x": [1.0, 2.0]}


def test_a_model_whose_inputs_are_not_listed() -> None:
    with pytest.raises(UsageError, match="does not list the inputs"):
        _planned({"x": "1"}, _signature())
