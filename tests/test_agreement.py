"""Exports below fp32: what they are calibrated on, what is measured, and when they are refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlserve.errors import ExportError, UsageError
from mlserve.export import export
from mlserve.precision import Precision
from mlserve.sources import ModelRequest
from mlserve.store import Store
from tests.harness import rounding

COLOURS = {"red": (200, 20, 30), "green": (20, 200, 30), "blue": (20, 30, 200)}
INT8 = ModelRequest("fine", precision=Precision.INT8)


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with rounding.installed(tmp_path / "site", monkeypatch):
        yield


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photos of each colour, in a folder that is named by its label."""
    root = tmp_path / "photos"
    for label, colour in COLOURS.items():
        (root / label).mkdir(parents=True)
        for number in range(10):
            (root / label / f"{number}.png").write_bytes(png(colour, number))
    return root


def png(colour: tuple[int, int, int], number: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9 + number, 9), colour).save(file, "PNG")
    return file.getvalue()


def exported(store: Store, request: ModelRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the manifest says of the agreement, and what the backend has seen."""
    artifact = export(request, rounding.NAME, store=store.root)
    assert artifact.manifest is not None
    assert artifact.manifest.precision is request.precision
    return dict(artifact.manifest.agreement), rounding.written(artifact.path)


def test_a_fifth_of_the_images_is_held_back_and_not_calibrated_on(
    store: Store, photos: Path
) -> None:
    agreement, seen = exported(store, replace(INT8, calibration=photos))
    assert seen["calibration"] == [{"images": [1, 8, 8, 3]}] * 24
    assert seen["expected"] == [2] * 8 + [1] * 8 + [0] * 8  # blue, green, red: by name
    assert agreement["origin"] == "6 images held back of 30, not calibrated on"
    assert (agreement["same"], agreement["inputs"], agreement["share"]) == (6, 6, 1.0)
    assert agreement["calibrated_on"] == 24
    assert agreement["accuracy"] == {"inputs": 6, "reference": 1.0, "artifact": 1.0}


def test_images_in_one_folder_have_no_labels(store: Store, photos: Path) -> None:
    agreement, seen = exported(store, replace(INT8, calibration=photos / "red"))
    assert seen["expected"] is None
    assert agreement["accuracy"] is None


def test_folders_of_other_names_are_no_labels(store: Store, photos: Path) -> None:
    for label in COLOURS:
        (photos / label).rename(photos / f"{label} things")
    agreement, _ = exported(store, replace(INT8, calibration=photos))
    assert agreement["accuracy"] is None


def test_folders_may_be_named_by_the_numbers_of_classes(store: Store, photos: Path) -> None:
    for number, label in enumerate(rounding.LABELS):
        (photos / label).rename(photos / str(number))
    _, seen = exported(store, replace(INT8, calibration=photos))
    assert seen["expected"] == [0] * 8 + [1] * 8 + [2] * 8


@pytest.mark.parametrize(
    ("place", "why"),
    [("reds/1.png", "'reds', which is not one of them"), ("1.png", "no folder")],
)
def test_a_folder_that_is_not_a_label_beside_others_is_a_mistake(
    store: Store, photos: Path, place: str, why: str
) -> None:
    (photos / place).parent.mkdir(exist_ok=True)
    (photos / place).write_bytes(png(COLOURS["red"]))
    with pytest.raises(UsageError, match=f"{place} lies in {why}"):
        exported(store, replace(INT8, calibration=photos))


def test_an_export_that_loses_answers_is_refused_and_nothing_is_left(
    store: Store, photos: Path, tmp_path: Path
) -> None:
    request = ModelRequest("coarse", precision=Precision.INT8, calibration=photos)
    with pytest.raises(ExportError) as raised:
        exported(store, replace(request, min_agreement=0.9))
    assert "coarse in int8 gives the answers of NumPy to" in raised.value.message
    assert not store.exported() or not store.versions(rounding.NAME, "coarse")


def test_the_figure_the_worst_images_and_the_next_step_are_said(store: Store, photos: Path) -> None:
    request = ModelRequest("coarse", precision=Precision.INT8, calibration=photos)
    with pytest.raises(ExportError) as raised:
        exported(store, request)
    assert "to 4 of 6 inputs (66.7%), and at least 99.0% is asked for" in raised.value.message
    assert "blue/4.png ('red', not 'blue' with a score of 0.99" in raised.value.message.replace(
        "green", "red"
    )
    assert "--min-agreement 0.66" in (raised.value.hint or "")


def test_less_agreement_can_be_accepted(store: Store, photos: Path) -> None:
    request = ModelRequest("coarse", precision=Precision.INT8, calibration=photos)
    agreement, _ = exported(store, replace(request, min_agreement=0.66))
    assert (agreement["same"], agreement["inputs"], agreement["least"]) == (4, 6, 0.66)
    assert agreement["accuracy"] == {"inputs": 6, "reference": 1.0, "artifact": 4 / 6}
    assert [each["input"] for each in agreement["differing"]] == ["blue/4.png", "blue/9.png"]


def test_held_out_images_leave_all_others_to_calibrate_on(
    store: Store, photos: Path, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.mkdir()
    (held / "a.png").write_bytes(png(COLOURS["green"]))
    agreement, seen = exported(store, replace(INT8, calibration=photos, held_out=held))
    assert len(seen["calibration"]) == 30
    assert (agreement["inputs"], agreement["origin"]) == (1, "1 image held out")


def test_images_cannot_be_calibrated_and_measured_on(store: Store, photos: Path) -> None:
    with pytest.raises(UsageError, match=r"10 images of --held-out .* would also be calibrated on"):
        exported(store, replace(INT8, calibration=photos, held_out=photos / "red"))


@pytest.mark.slow
def test_fp32_is_measured_where_images_are_held_out(store: Store, photos: Path) -> None:
    agreement, _ = exported(store, ModelRequest("fine", held_out=photos))
    assert (agreement["same"], agreement["inputs"]) == (30, 30)


def test_the_golden_inputs_decide_on_bf16_alone(store: Store) -> None:
    agreement, _ = exported(store, ModelRequest("fine", precision=Precision.BF16))
    assert agreement["origin"] == "golden inputs, as no others were given"
    assert agreement["same"] == agreement["inputs"] > 10


def test_a_damaged_image_is_named(store: Store, photos: Path) -> None:
    (photos / "red" / "3.png").write_bytes(b"no image")
    with pytest.raises(ExportError, match=r"red/3.png cannot be used"):
        exported(store, replace(INT8, calibration=photos))


def test_a_part_of_the_images_remembers_a_damaged_one_too(
    store: Store, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "red" / "3.png").write_bytes(b"no image")

    def swallow(self: Any, model: Any, into: Path, quantization: Any) -> Any:
        try:
            list(quantization.calibration[2:])
        except ExportError as error:
            raise RuntimeError("the library failed") from error

    monkeypatch.setattr(rounding.RoundingBackend, "export_at", swallow)
    with pytest.raises(ExportError, match=r"red/3.png cannot be used"):
        exported(store, replace(INT8, calibration=photos))


def test_progress_is_shown(store: Store, photos: Path) -> None:
    seen = []
    export(
        replace(INT8, calibration=photos),
        rounding.NAME,
        store=store.root,
        progress=lambda *step: seen.append(step),
    )
    assert ("calibrating fine", 24, 24) in seen
    assert ("comparing fine with NumPy", 5, 6) in seen


ROWS = np.random.default_rng(3).standard_normal((20, 3)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".jsonl"])
def test_rows_of_a_table_are_inputs_of_a_model_of_tensors(
    store: Store, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"rows{suffix}"
    match suffix:
        case ".npz":
            np.savez(file, x=ROWS)
        case ".npy":
            np.save(file, ROWS)
        case ".csv":
            file.write_text("a,b,c\n" + "\n".join(",".join(map(str, row)) for row in ROWS))
        case _:
            file.write_text("\n".join(f'{{"x": {row.tolist()}}}' for row in ROWS))
    request = ModelRequest("linear", precision=Precision.INT8, calibration=file)
    agreement, seen = exported(store, replace(request, min_agreement=0.1))
    assert seen["calibration"] == [{"x": [1, 3]}] * 16
    assert agreement["origin"] == "4 rows held back of 20, not calibrated on"
    assert agreement["inputs"] == 4


def test_rows_that_differ_by_more_than_the_tolerance_are_refused(
    store: Store, tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", x=ROWS * 100)
    request = ModelRequest(
        "linear", precision=Precision.BF16, held_out=tmp_path / "rows.npz", min_agreement=1.0
    )
    agreement, _ = exported(store, request)  # it is relative to large numbers
    assert agreement["same"] == 20
    np.savez(tmp_path / "rows.npz", y=ROWS)
    with pytest.raises(UsageError, match=r"rows\.npz"):
        exported(store, request)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "--precision int8 needs inputs of the model"),
        ({"precision": "fp16"}, "the backend rounding does not export fp16"),
        ({"precision": "bf16", "calibration": "photos"}, "--calibration has no effect on bf16"),
        ({"calibration": "photos"}, "--calibration has no effect on fp32"),
        ({"min_agreement": 0.9}, "--min-agreement 0.9 has no effect"),
        ({"precision": "bf16", "min_agreement": 99}, "--min-agreement 99 is not a share"),
        ({"precision": "bf16", "held_out": "none"}, "--held-out none does not exist"),
        ({"precision": "int8", "calibration": "none"}, "--calibration none does not exist"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_opened(
    store: Store, options: dict[str, Any], message: str
) -> None:
    for name in ("calibration", "held_out"):
        if name in options:
            options[name] = Path(options[name])
    options["precision"] = Precision(options.get("precision", "fp32"))
    steps: list[str] = []
    with pytest.raises(UsageError, match=message) as raised:
        export(
            ModelRequest("fine", **options),
            rounding.NAME,
            store=store.root,
            progress=lambda what, *_: steps.append(what),
        )
    assert raised.value.hint
    assert steps == []


def test_one_image_leaves_none_to_measure_on(store: Store, photos: Path) -> None:
    request = replace(INT8, calibration=photos / "red" / "1.png")
    with pytest.raises(UsageError, match="leaves none to measure the agreement on"):
        exported(store, request)


def test_a_model_without_a_reference_is_not_exported_below_fp32(store: Store, photos: Path) -> None:
    request = ModelRequest("unreferenced", precision=Precision.INT8, calibration=photos)
    with pytest.raises(ExportError, match="unreferenced has no reference"):
        exported(store, request)
