"""`--input`: what a value on the command line stands for, by the input's type."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.errors import InvalidInput, UsageError
from mlserve.rows.files import read_file
from mlserve.rows.given import as_batch, parse_inputs, values_of
from mlserve.tensors import DType, Signature, TensorSpec

SIGNATURE = Signature(
    "serving_default",
    (
        TensorSpec("x", DType.FLOAT32, (None, 3)),
        TensorSpec("n", DType.INT64, (None,)),
        TensorSpec("text", DType.BYTES, (None,)),
        TensorSpec("any", DType.FLOAT32, None),
        TensorSpec("one", DType.FLOAT32, ()),
    ),
    (),
)


def _value(text: str) -> Any:
    [(_, value)] = values_of(parse_inputs([text]), SIGNATURE, read_file).items()
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=[[1,2,3]]", [[1.0, 2.0, 3.0]]),
        ("x=[1,2,3]", [[1.0, 2.0, 3.0]]),
        ("n=7", [7]),
        ("n=[7, 8]", [7, 8]),
        ("any=5", [5.0]),
        ("any=[[5]]", [[5.0]]),
        ("one=5", 5.0),
        ("text=good morning", ["good morning"]),
        ('text="good"', ["good"]),
        ('text="@home"', ["@home"]),
        ("text=a=b", ["a=b"]),
        ("text=", [""]),
        ("text=42", ["42"]),
        ("text=null", ["null"]),
        ('text={"a": 1}', ['{"a": 1}']),
        ('text=["a", "b"]', ["a", "b"]),
        ("other=hm", "hm"),
        ("other=[1]", [1]),
    ],
)
def test_a_value(text: str, value: Any) -> None:
    assert _value(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x=abc", "the value of 'x' is not JSON: 'abc'"),
        ('x=["1"]', "input 'x': '1' is a string, not a number"),
        ("n=1.5", "input 'n': 1.5 is not a whole number"),
        ("text=[1]", "input 'text': 1 is not a string"),
    ],
)
def test_a_value_that_does_not_fit(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as wrong:
        _value(text)

    assert wrong.value.message == message
    assert wrong.value.hint


@pytest.mark.parametrize(
    "texts", [["abc"], ["=1"], ["@rows.npy"], ["x=1", "x=2"], ["a=@-", "b=@-"]]
)
def test_inputs_that_say_too_little_or_too_much(texts: list[str]) -> None:
    with pytest.raises(UsageError) as wrong:
        parse_inputs(texts)

    assert wrong.value.hint


def test_files(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "rows.json").write_text("[[1, 2, 3]]")
    np.save(tmp_path / "rows.npy", np.ones((2, 3), np.float32))
    np.savez(tmp_path / "one.npz", whatever=np.ones((4, 3)))

    assert _value(f"text=@{tmp_path}/photo.jpg") == [b"\xff\xd8"]
    assert _value(f"x=@{tmp_path}/rows.json") == [[1.0, 2.0, 3.0]]
    assert _value(f"text=@{tmp_path}/rows.json") == [b"[[1, 2, 3]]"]
    assert _value(f"x=@{tmp_path}/rows.npy").shape == (2, 3)
    assert _value(f"x=@{tmp_path}/one.npz").shape == (4, 3)


def test_a_row_in_an_array_file_becomes_a_batch(tmp_path: Path) -> None:
    np.save(tmp_path / "row.npy", np.ones(3))

    assert _value(f"x=@{tmp_path}/row.npy").shape == (1, 3)


def test_all_the_arrays_of_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", x=np.zeros((2, 3)), text=np.array(["a", "bc"]))
    found = values_of(parse_inputs([f"@{tmp_path}/all.npz"]), SIGNATURE, read_file)

    assert found["x"].shape == (2, 3)
    assert found["text"].tolist() == ["a", "bc"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "cannot be read as an array"),
        (b"", "cannot be read as an array"),
    ],
)
def test_a_file_that_is_no_array(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.npy").write_bytes(content)
    with pytest.raises(UsageError, match=message) as wrong:
        _value(f"x=@{tmp_path}/rows.npy")

    assert wrong.value.hint


def test_a_pickle_in_an_array_file_does_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.array([_Evil(tmp_path / "ran")], dtype=object))
    with pytest.raises(UsageError) as wrong:
        _value(f"x=@{tmp_path}/rows.npy")

    assert "cannot be read as an array" in wrong.value.message
    assert not (tmp_path / "ran").exists()


class _Evil:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_other_files_are_not_numbers(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1,2,3\n")
    with pytest.raises(InvalidInput) as wrong:
        _value(f"x=@{tmp_path}/rows.csv")

    assert wrong.value.message.endswith("so it cannot be the numbers of x: float32[?,3]")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        _value(f"x=@{tmp_path}/missing.npy")


def test_dimensions_that_may_not_be_one_are_not_added() -> None:
    assert as_batch([1.0], TensorSpec("x", DType.FLOAT32, (4, 1))) == [1.0]
    assert as_batch(1.0, TensorSpec("x", DType.FLOAT32, (None, 1))) == [[1.0]]
    assert as_batch(np.float32(1), TensorSpec("x", DType.FLOAT32, (None,))) == [1]


def test_a_structured_array_says_how_to_save_it(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros(2, dtype=[("a", "f4"), ("b", "f4")]))
    with pytest.raises(UsageError, match="structured array, with the fields a, b"):
        _value(f"x=@{tmp_path}/rows.npy")


def test_an_npz_may_be_a_stream() -> None:
    data = io.BytesIO()
    np.savez(data, x=np.ones((1, 3)))
    found = values_of(parse_inputs(["x=@-"]), SIGNATURE, lambda _: data.getvalue())

    assert found["x"].shape == (1, 3)
