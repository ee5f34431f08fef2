"""What counts as the same answer."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import GOLDEN_FOLDER, GoldenCase, read_golden, write_golden
from mlserve.certificate.tolerance import TOLERANCE, tolerance_of
from mlserve.certificate.verdict import compared, difference, margin_of
from mlserve.errors import ModelLoadFailed
from mlserve.precision import Precision


def texts(*values: str) -> Any:
    return np.array([value.encode() for value in values], dtype=object)


def case(scores: Any, label: str) -> GoldenCase:
    expected = {"scores": np.array([scores], np.float32), "label": texts(label)}
    inputs = {"image": np.array([b"\x00an image\x00"], dtype=object)}
    return GoldenCase("one", "ranking", inputs, expected, expected, margin_of(expected))


def problem(reference: GoldenCase, scores: Any, label: str, tolerance: float = 1e-3) -> str:
    found = {"scores": np.array([scores], np.float32), "label": texts(label)}
    return compared(reference, found, tolerance).problem


def test_a_label_may_change_only_where_the_two_best_can_swap() -> None:
    close, clear = case([0.5, 0.4995], "cat"), case([0.6, 0.4], "cat")
    assert problem(close, [0.4997, 0.4998], "dog") == ""
    assert problem(clear, [0.6, 0.4], "dog") == "label is 'dog', not 'cat'"


def test_labels_that_were_moved_are_not_excused_by_close_scores() -> None:
    close = case([0.5, 0.4995], "cat")
    assert problem(close, [0.5, 0.4995], "dog") == "label is 'dog', not 'cat'"
    assert problem(case([0.5, 0.5], "cat"), [0.5, 0.5], "dog") == "", "either is the best"


@pytest.mark.parametrize("found", [[0.6, np.nan], [np.inf, 0.4]])
def test_what_is_not_finite_is_infinitely_far(found: Any) -> None:
    assert problem(case([0.6, 0.4], "cat"), found, "cat") == "scores differs by inf"


def test_numbers_above_one_count_by_the_largest() -> None:
    assert difference(np.array([1000.0, 0.0]), np.array([1000.1, 0.0])) == pytest.approx(1e-4)
    assert difference(np.array([0.5]), np.array([0.6])) == pytest.approx(0.1)
    assert difference(np.array([np.nan, np.inf]), np.array([np.nan, np.inf])) == 0.0
    assert difference(np.zeros(2), np.zeros(3)) == np.inf


def test_an_output_that_is_missing_is_a_problem() -> None:
    assert compared(case([0.6, 0.4], "cat"), {}, 1.0).problem.startswith(
        "there is no output scores"
    )


@pytest.mark.parametrize(
    ("precision", "measured", "largest", "tolerance"),
    [
        (Precision.FP32, 0.0, 1.0, 3e-5),
        (Precision.FP32, 4e-6, 1.0, 8e-5),
        (Precision.FP32, 5e-5, 1.0, TOLERANCE),
        (Precision.FP32, 0.0, 0.001, 3e-8),
        (Precision.FP32, 0.0, 40.0, 3e-5),
        (Precision.INT8, 0.002, 1.0, 1e-2),
        (Precision.INT8, 0.1, 1.0, 0.2),
        (Precision.INT8, 0.0, 0.001, 1e-5),
        (Precision.BF16, 0.0, 1.0, 1e-2),
        (Precision.FP16, 0.0, 1.0, 1e-3),
    ],
)
def test_the_tolerance(
    precision: Precision, measured: float, largest: float, tolerance: float
) -> None:
    assert tolerance_of(precision, measured, largest) == pytest.approx(tolerance)


def test_golden_inputs_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_golden([case([0.6, 0.4], "a label, ä")], tmp_path)
    (found,) = read_golden(tmp_path)
    assert (found.name, found.signature) == ("one", "ranking")
    assert found.margin == pytest.approx(0.2)
    assert found.inputs["image"].tolist() == [b"\x00an image\x00"]
    assert found.expected["label"].tolist() == ["a label, ä".encode()]
    np.testing.assert_array_equal(found.answered["scores"], np.array([[0.6, 0.4]], np.float32))


@pytest.mark.parametrize("file", ["golden.json", "tensors.npz"])
@pytest.mark.parametrize("content", [b"", b"[{}]", b"PK\x03\x04"])
def test_damaged_golden_inputs_are_named(tmp_path: Path, file: str, content: bytes) -> None:
    write_golden([case([0.6, 0.4], "cat")], tmp_path)
    (tmp_path / GOLDEN_FOLDER / file).write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=r"the golden inputs in .* cannot be read"):
        read_golden(tmp_path)


def packed(data: bytes) -> bytes:
    """Return an archive in which each array is `data`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(6):
            archive.writestr(f"arr_{number}.npy", data)
    return file.getvalue()


def header(*shape: int) -> bytes:
    file = io.BytesIO()
    written = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, written)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(packed(b"not an array"), id="not an array"),
        pytest.param(packed(header(10**12)), id="larger than any memory"),
        pytest.param(packed(header(2**62, 2**62)), id="more than can be counted"),
    ],
)
def test_hostile_tensors_are_named(tmp_path: Path, content: bytes) -> None:
    write_golden([case([0.6, 0.4], "cat")], tmp_path)
    (tmp_path / GOLDEN_FOLDER / "tensors.npz").write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=r"the golden inputs in .* cannot be read"):
        read_golden(tmp_path)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlserve.certificate.golden._LARGEST", 2**20)
    write_golden([case(np.zeros(2**19), "cat")], tmp_path)
    assert (tmp_path / GOLDEN_FOLDER / "tensors.npz").stat().st_size < 2**17
    with pytest.raises(ModelLoadFailed, match="unpacks to more than 1 MiB"):
        read_golden(tmp_path)


def test_no_damaged_byte_of_the_tensors_is_a_crash(tmp_path: Path) -> None:
    write_golden([case([0.6, 0.4], "cat")], tmp_path)
    path = tmp_path / GOLDEN_FOLDER / "tensors.npz"
    whole = path.read_bytes()
    refused = 0
    places = range(0, len(whole), 11)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_golden(tmp_path)
        except ModelLoadFailed:
            refused += 1
    assert refused > len(places) / 2


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": [1]},
        {"margin": "wide"},
        {"name": 5},
        {"signature": None},
        {"inputs": {"image": {"tensor": 10**30}}},
        {"inputs": {"image": {"tensor": 2, "lengths": 2}}},
    ],
)
def test_a_hostile_index_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    write_golden([case([0.6, 0.4], "cat")], tmp_path)
    path = tmp_path / GOLDEN_FOLDER / "golden.json"
    (item,) = json.loads(path.read_text())
    path.write_text(json.dumps([item | change]))
    with pytest.raises(ModelLoadFailed, match=r"the golden inputs in .* cannot be read"):
        read_golden(tmp_path)


def test_an_index_without_golden_inputs_does_not_hold(tmp_path: Path) -> None:
    write_golden([], tmp_path)
    with pytest.raises(ModelLoadFailed, match="there are none"):
        read_golden(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tolerance": math.nan}, "tolerance"),
        ({"tolerance": math.inf}, "tolerance"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"tolerance": "1e-4"}, "tolerance"),
        ({"own_tolerance": math.nan}, "own_tolerance"),
        ({"difference": None}, "difference"),
    ],
)
def test_a_certificate_that_everything_would_hold_is_damaged(
    change: dict[str, Any], said: str
) -> None:
    whole = Certificate("f", 1, 1e-4, 0.0, None, None, "a CPU")
    assert Certificate.from_json(whole.to_json()) == whole
    with pytest.raises((TypeError, ValueError), match=said):
        Certificate.from_json(whole.to_json() | change)
