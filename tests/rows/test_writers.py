"""Answers as tables, JSON and arrays; and going on with the file that a killed run left."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlserve.errors import InferenceFailed, InvalidInput, UsageError
from mlserve.rows.arrays import save_arrays
from mlserve.rows.asking import RowAnswer, RowError
from mlserve.rows.columns import undeclared
from mlserve.rows.rendering import cell_text, json_value
from mlserve.rows.resuming import rows_in_jsonl, rows_in_table
from mlserve.rows.table import Place
from mlserve.rows.writers import (
    CsvWriter,
    JsonlWriter,
    JsonWriter,
    Layout,
    NpzWriter,
    TableWriter,
    arrays_of,
    rows_of,
)
from mlserve.tensors import DType, TensorSpec

LABEL = TensorSpec("label", DType.BYTES, (None,))
SCORES = TensorSpec("probabilities", DType.FLOAT32, (None, 2))
BOXES = TensorSpec("boxes", DType.FLOAT32, (None, None, 2))
LAYOUT = Layout((LABEL, SCORES, BOXES), has_file=False)
SERVER = SimpleNamespace(model="m", version=1, endpoint="e", signature="s", served_by=None)


def _answer(number: int, label: Any = "a", scores: Any = (0.25, 0.75), boxes: Any = ()) -> Any:
    outputs = {"label": label, "probabilities": [*scores], "boxes": [*boxes]}
    return RowAnswer(Place("rows.csv", number, number + 1), outputs, SERVER)


ERROR = RowError(Place("rows.csv", 2, 3), InvalidInput("a ragged row", hint="mend it"))


def _written(kind: Any, *outcomes: Any, layout: Layout = LAYOUT, **options: Any) -> str:
    parts: list[str] = []
    writer = kind(parts.append, layout, **options)
    for outcome in outcomes:
        writer.write(outcome)
    writer.finish()
    return "".join(parts)


def test_csv_has_a_column_for_each_element_of_a_vector() -> None:
    text = _written(CsvWriter, _answer(1, 'a, "b"\nc', boxes=[[1, 2]]), ERROR, _answer(3))

    assert [*csv.reader(io.StringIO(text, newline=""))] == [
        ["row", "label", "probabilities_0", "probabilities_1", "boxes"],
        ["1", 'a, "b"\nc', "0.25", "0.75", "[[1, 2]]"],
        ["3", "a", "0.25", "0.75", "[]"],
    ]


@pytest.mark.parametrize("text", ["a\rb", "a\r\nb", "a\nb", 'a"b', "\r", "a,b", " a ", "", "007"])
def test_csv_gives_every_text_back(text: str) -> None:
    layout = Layout((LABEL,), has_file=False)
    written = _written(
        CsvWriter, RowAnswer(Place("rows.csv", 1), {"label": text}, SERVER), layout=layout
    )

    assert list(csv.reader(io.StringIO(written, newline=""))) == [["row", "label"], ["1", text]]
    assert written.endswith("\n")
    assert not written.endswith("\r\n")


def test_text_is_separated_by_tabs_and_stays_on_its_line() -> None:
    text = _written(TableWriter, _answer(1, "a\tb\x1b[1m"))

    assert text == (
        "row\tlabel\tprobabilities_0\tprobabilities_1\tboxes\n1\ta\\tb\\x1b[1m\t0.25\t0.75\t[]\n"
    )


def test_jsonl_has_errors_too() -> None:
    lines = _written(JsonlWriter, _answer(1), ERROR).splitlines()

    assert [json.loads(line) for line in lines] == [
        {"row": 1, "outputs": {"label": "a", "probabilities": [0.25, 0.75], "boxes": []}},
        {
            "row": 2,
            "line": 3,
            "error": {
                "kind": "invalid_input",
                "message": "a ragged row",
                "hint": "mend it",
                "exit_code": 2,
            },
        },
    ]


def test_json_is_one_object() -> None:
    shown: list[Any] = []
    writer = JsonWriter(shown.append, Layout((LABEL,), has_file=True))
    writer.write(RowAnswer(Place("a.csv", 1), {"label": b"x"}, SERVER))
    writer.finish()

    assert shown == [
        {
            "predictions": [{"file": "a.csv", "row": 1, "outputs": {"label": "x"}}],
            "model": "m",
            "version": 1,
            "endpoint": "e",
            "signature": "s",
            "served_by": None,
        }
    ]


def test_npz_has_the_rows_that_were_answered() -> None:
    stream = io.BytesIO()
    layout = Layout((LABEL, SCORES), has_file=False)
    writer = NpzWriter(lambda arrays: save_arrays(stream, arrays), layout)
    for number in (1, 3):
        outputs = {"label": b"a" * number, "probabilities": [0.25, 0.75]}
        writer.write(RowAnswer(Place("rows.csv", number), outputs, SERVER))
    writer.write(ERROR)
    writer.finish()

    with np.load(io.BytesIO(stream.getvalue())) as found:
        assert found["row"].tolist() == [1, 3]
        assert found["label"].tolist() == ["a", "aaa"]
        assert found["probabilities"].dtype == np.float32
        assert found["probabilities"].shape == (2, 2)


def test_npz_has_complex_numbers_as_they_are() -> None:
    spec = TensorSpec("y", DType.COMPLEX64, (None, 2))
    found = arrays_of({"y": np.array([[1 + 2j, 3]], np.complex64)}, {"y": spec})["y"]

    assert (found.dtype, found.tolist()) == (np.complex64, [[1 + 2j, 3]])


@pytest.mark.parametrize("value", [np.array([2**53 + 1]), [np.int64(2**53 + 1)]])
def test_npz_has_an_output_that_the_server_does_not_list_in_its_own_type(value: Any) -> None:
    found = arrays_of({"y": value}, {"y": undeclared("y")})["y"]

    assert (found.dtype, found.tolist()) == (np.int64, [2**53 + 1])


def test_npz_keeps_the_sizes_of_an_empty_answer() -> None:
    spec = TensorSpec("y", DType.FLOAT32, (None, 3))

    assert arrays_of({"y": np.zeros((0, 3), np.float32)}, {"y": spec})["y"].shape == (0, 3)


def test_rows_of_different_sizes_are_not_an_array() -> None:
    saved: dict[str, Any] = {}
    writer = NpzWriter(saved.update, Layout((BOXES,), has_file=False))
    writer.write(RowAnswer(Place("rows.csv", 1), {"boxes": [[1, 2]]}, SERVER))
    with pytest.raises(InferenceFailed, match="the output 'boxes' has the shape \\[0\\], and"):
        writer.write(RowAnswer(Place("rows.csv", 2), {"boxes": []}, SERVER))
    writer.finish()

    assert saved["boxes"].tolist() == [[[1.0, 2.0]]]


def test_a_vector_of_another_length_than_the_server_says() -> None:
    with pytest.raises(InferenceFailed, match="and the server says probabilities: float32"):
        LAYOUT.cells(_answer(1, scores=(1.0,)))


def test_an_output_called_as_the_number_of_the_row() -> None:
    layout = Layout((TensorSpec("row", DType.INT64, (None,)),), has_file=False)

    assert layout.header == ["row", "row_"]


@pytest.mark.parametrize(
    ("value", "dtype", "found"),
    [
        (0.10000000149011612, DType.FLOAT32, 0.1),
        (16777216.0, DType.FLOAT32, 16777216.0),
        (3.4028234663852886e38, DType.FLOAT32, 3.4028235e38),
        (0.0999755859375, DType.FLOAT16, 0.0999756),
        (0.1 + 0.2, DType.FLOAT64, 0.30000000000000004),
        (np.array([0.1], np.float32), DType.FLOAT32, [0.1]),
        (b"caf\xc3\xa9", DType.BYTES, "café"),
        (b"caf\xe9", DType.BYTES, {"b64": "Y2Fm6Q=="}),
        ("caf\udce9", DType.BYTES, {"b64": "Y2Fm6Q=="}),
        (np.array([True]), DType.BOOL, [True]),
    ],
)
def test_values_are_plain_and_short(value: Any, dtype: DType, found: Any) -> None:
    assert json_value(value, TensorSpec("y", dtype, None)) == found


def test_every_float32_comes_back_from_its_digits() -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, 20_000, dtype=np.uint32)
    numbers = bits.view(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    found = json_value(numbers, TensorSpec("y", DType.FLOAT32, None))

    assert (np.array([float(cell_text(value)) for value in found], np.float32) == numbers).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "NaN"),
        (float("-inf"), "-inf"),
        (True, "true"),
        (7, "7"),
        ([1, "a"], '[1, "a"]'),
    ],
)
def test_cells(value: Any, text: str) -> None:
    assert cell_text(value) == text


def _rows_of(answer: Any, **sizes: int) -> Any:
    specs = [TensorSpec(name, DType.FLOAT32, (sizes.get(name),)) for name in answer]
    return rows_of(answer, specs)


def test_a_constant_as_long_as_the_batch_makes_no_rows() -> None:
    assert _rows_of({"a": [1, 2], "b": [7, 8]}, b=2) is None
    assert len(_rows_of({"a": [1, 2], "b": [7, 8]}, a=2, b=2)) == 2


def test_outputs_as_rows_if_they_have_the_same_number() -> None:
    assert _rows_of({"a": [1, 2], "b": [3]}) is None
    assert _rows_of({"a": 1.0}) is None
    found = _rows_of({"a": [1, 2], "b": np.zeros((2, 3))})
    assert found is not None
    assert [row.outputs["a"] for row in found] == [1, 2]


HEADER = ["row", "label"]


@pytest.mark.parametrize(
    ("data", "rows", "kept"),
    [
        ("", set(), ""),
        ("row,la", set(), ""),
        ("row,label\n", set(), "row,label\n"),
        ("row,label\n1,a\n2,b\n", {1, 2}, "row,label\n1,a\n2,b\n"),
        ("row,label\n1,a\n2,b", {1}, "row,label\n1,a\n"),
        ('row,label\n1,"x\ny"\n2,"x\n', {1}, 'row,label\n1,"x\ny"\n'),
    ],
)
def test_a_table_is_gone_on_with(tmp_path: Path, data: str, rows: set[int], kept: str) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(data)

    assert rows_in_table(path, HEADER, ",") == {(None, row) for row in rows}
    assert path.read_text() == kept
    assert [entry.name for entry in tmp_path.iterdir()] == ["answers.csv"]


def test_a_table_with_a_large_cell_is_gone_on_with(tmp_path: Path) -> None:
    csv.field_size_limit(2**17)  # what it is until a table is read
    path = tmp_path / "answers.csv"
    path.write_text(f"row,label\n1,{'a' * 200_000}\n")

    assert rows_in_table(path, HEADER, ",") == {(None, 1)}


def test_lines_with_errors_and_half_a_line_are_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    good = '{"row": 1, "outputs": {"y": NaN}}\n'
    path.write_text(good + '{"row": 2, "error": {}}\n' + good.replace("1", "3") + '{"row": 4, "ou')

    assert rows_in_jsonl(path, has_file=False) == {(None, 1), (None, 3)}
    assert path.read_text() == good + good.replace("1", "3")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("row,species\n1,a\n", "has the columns row, species, and these answers have row, label"),
        ("row,label\nx,a\n", "line 2 is not a result: x,a"),
        ("row,label\n1,a,b\n", "line 2 is not a result: 1,a,b"),
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, data: str, message: str) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(data)
    with pytest.raises(UsageError) as wrong:
        rows_in_table(path, HEADER, ",")

    assert message in wrong.value.message
    assert path.read_text() == data


@pytest.mark.parametrize("line", ["[1]", '{"outputs": {}}', "hello"])
def test_lines_of_something_else_are_left_alone(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(UsageError, match="line 1 is not a result"):
        rows_in_jsonl(path, has_file=False)

    assert path.read_text() == f"{line}\n"


@pytest.mark.parametrize(
    ("line", "has_file", "message"),
    [
        ({"file": "a.csv", "row": 1, "outputs": {"y": 1}}, False, "of a run about several files"),
        ({"row": 1, "outputs": {"y": 1}}, True, "of a run about one file"),
        ({"row": 1, "outputs": {"x": 1}}, False, "has no output 'y', which is asked for now"),
    ],
)
def test_answers_to_another_question_are_left_alone(
    tmp_path: Path, line: Any, has_file: bool, message: str
) -> None:
    path = tmp_path / "answers.jsonl"
    text = json.dumps(line) + "\n"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        rows_in_jsonl(path, ["y"], has_file=has_file)

    assert path.read_text() == text


def test_an_output_that_the_server_does_not_list_is_not_dropped_silently() -> None:
    answer = RowAnswer(Place("rows.csv", 1), {"label": "a", "new": 1.0}, SERVER)
    layout = Layout((LABEL,), has_file=False)

    with pytest.raises(InferenceFailed, match="the server does not list the output 'new'"):
        layout.cells(answer)
    assert layout.values(answer) == {"label": "a", "new": 1.0}
