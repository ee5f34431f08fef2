"""The two backends with a real model: the published table, made again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "parity.md"
_WITHIN = ("0", "<1e-6", "<1e-5", "<1e-4")
_KINDS = ("1x1", "6000x4000", "q10", "q100", "420", "444", "progressive", "grey", "cmyk", "alpha")


_PIXELS = ("--antialias", "--no-antialias", "bicubic", "nearest", "--crop", "letterbox", "bgr")


def _rows(page: str, title: str = "Images") -> dict[str, list[str]]:
    """The cells of the table under that title, by image or options."""
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)[1:]
    return {cells[0]: cells[1:] for cells in (line.split(" | ") for line in lines)}


def test_the_published_table_shows_parity_on_images_of_every_kind() -> None:
    rows = _rows(PUBLISHED.read_text())

    assert len(rows) >= 40
    for kind in (*_KINDS, "palette", "16-bit"):
        assert any(kind in name for name in rows), kind
    for name, (*differences, _label, is_same) in rows.items():
        assert set(differences) <= set(_WITHIN), name
        assert differences[0] == "0", f"the decoders differ on {name}"
        assert is_same == "yes", name


def test_the_page_begins_with_what_the_tables_show() -> None:
    page = PUBLISHED.read_text()
    said = re.findall(r"^- \*\*(\d+) of (\d+) images get the same label from `(\w+)`", page, re.M)

    rows = _rows(page)
    assert page.startswith("# Parity\n\n- **")
    assert {runtime for *_, runtime in said} >= {"onnxruntime", "openvino"}
    for agreeing, count, runtime in said:
        assert (int(agreeing), int(count)) == (len(rows), len(rows)), runtime


def test_the_same_file_answers_alike_on_other_cpus_as_mlserve_opens_it() -> None:
    rows = re.findall(r"^\| onnxruntime \| int8 \| (.*) \|$", PUBLISHED.read_text(), re.MULTILINE)

    on = {cells[0]: cells[-2:] for cells in (row.split(" | ") for row in rows)}
    assert on["AVX2 (qemu)"][0] == "0", "the sums saturate without VNNI"
    assert all(labels.startswith("0 of ") for _, labels in on.values())


def test_the_published_table_of_other_pixels_shows_equal_bits() -> None:
    rows = _rows(PUBLISHED.read_text(), "Other pixels")

    for kind in _PIXELS:
        assert any(kind in options for options in rows), kind
    for options, (decoded, resized, *scores, agreeing) in rows.items():
        assert (decoded, resized) == ("0", "0"), options
        assert set(scores) <= set(_WITHIN), options
        one, all_of_them = agreeing.split(" of ")
        assert one == all_of_them, options


@pytest.mark.tensorflow
@pytest.mark.server
@pytest.mark.timeout(900)
def test_the_published_table_is_what_a_run_gives(tmp_path: Path) -> None:
    pytest.importorskip("mlserve_onnxruntime")
    made = tmp_path / "parity.md"

    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "parity.py", "--output", made, "--no-pixels"],
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    published, now = _rows(PUBLISHED.read_text()), _rows(made.read_text())
    assert list(now) == list(published)
    # How far the last bits are apart is the machine's; the labels and that they agree is not.
    assert {name: cells[-2:] for name, cells in now.items()} == {
        name: cells[-2:] for name, cells in published.items()
    }
