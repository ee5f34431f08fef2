"""Several files in turn: their errors, and what is noted about each."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from mlserve.errors import UsageError
from mlserve.rows.asking import ReadyRow
from mlserve.rows.files import Source
from mlserve.rows.kinds import kind_by_name
from mlserve.rows.reading import RowReader
from mlserve.tensors import DType, Signature, TensorSpec

MATRIX = Signature("s", (TensorSpec("x", DType.FLOAT32, (None, 2)),), ())


def _read(*paths: Path) -> tuple[list[Any], list[str]]:
    """The inputs of each row or its error, and the notes."""
    notes: list[str] = []
    sources = [Source(str(path), kind_by_name(str(path))) for path in paths]
    reader = RowReader(sources, MATRIX, {}, notes.append)
    rows = [
        row.inputs["x"] if isinstance(row, ReadyRow) else f"{row.place}: {row.error.message}"
        for row in reader.rows()
    ]
    return rows, notes


def test_a_file_that_is_wrong_stops_no_other(tmp_path: Path) -> None:
    good, bad, last = (tmp_path / name for name in ("good.csv", "bad.jsonl", "last.json"))
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    good.write_text("b,a\n1,2\n")
    bad.write_text("\n")
    last.write_text('[{"p": 3, "q": 4}, {"p": 5}, 6]')
    rows, notes = _read(good, tmp_path / "gone.csv", bad, folder, last)

    assert rows == [
        [1.0, 2.0],
        f"{tmp_path}/gone.csv: {tmp_path}/gone.csv cannot be read: No such file or directory",
        f"{bad}: {bad} has no rows",
        f"{folder}: {folder} cannot be read: Is a directory",
        [3.0, 4.0],
        f"{last}, row 2: there is no 'q'",
        f"{last}, row 3: 6 is not an object",
    ]
    by_order = "note: the server does not name the columns of 'x'; taken in the order of the file: "
    assert notes == [f"{by_order}b, a", f"{by_order}p, q"]


def test_the_only_file_raises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        _read(tmp_path / "gone.csv")


def test_unreadable_rows_are_not_kept_until_one_can_be_read(tmp_path: Path) -> None:
    path, count = tmp_path / "rows.jsonl", 20_000
    path.write_text("x\n" * count + '{"p": 1, "q": 2}\n')
    reader = RowReader([Source(str(path), kind_by_name(str(path)))], MATRIX, {}, lambda _: None)
    tracemalloc.start()
    try:
        read = sum(1 for _ in zip(reader.rows(), range(count), strict=False))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    rows, _ = _read(path)

    assert read == count
    assert most < 4 * 2**20
    assert rows[-1] == [1.0, 2.0]
    assert [row.partition(":")[0] for row in rows[:-1]] == [
        f"{path}, line {number}" for number in range(1, count + 1)
    ]


def test_a_table_without_a_header_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("1,2\n3,4\n")
    rows, notes = _read(path)

    assert rows == [[1.0, 2.0], [3.0, 4.0]]
    assert "".join(notes) == (
        f"note: {path} has no header (its first line is numbers); taken in the order of the file: "
        "1, 2"
    )
