"""Files are written whole, and never over what somebody else wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlserve.deploy.writing import MARK, as_one_text, write_files
from mlserve.errors import UsageError

OURS = f"# {MARK} kubernetes`.\na: 1\n"


def test_folders_are_made_and_our_own_files_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "k8s"
    write_files({"a.yaml": OURS, "templates/b.yaml": OURS}, folder)
    written = write_files({"a.yaml": OURS + "b: 2\n"}, folder)

    assert written == [folder / "a.yaml"]
    assert (folder / "a.yaml").read_text().endswith("b: 2\n")
    assert (folder / "a.yaml").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in folder.iterdir()) == ["a.yaml", "templates"]


def test_a_file_of_somebody_else_stays_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("mine: true\n")

    with pytest.raises(UsageError, match=r"b\.yaml was not written by mlserve deploy") as refused:
        write_files({"a.yaml": OURS, "b.yaml": OURS}, tmp_path)

    assert "--force" in (refused.value.hint or "")
    assert [path.name for path in tmp_path.iterdir()] == ["b.yaml"]
    assert (tmp_path / "b.yaml").read_text() == "mine: true\n"


def test_force_overwrites(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("mine: true\n")

    write_files({"b.yaml": OURS}, tmp_path, force=True)

    assert (tmp_path / "b.yaml").read_text() == OURS


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UsageError, match="cannot be"):
        write_files({"a.yaml": OURS}, tmp_path / "file")


def test_one_file_that_cannot_be_written_leaves_all_as_they_were(tmp_path: Path) -> None:
    write_files({"a.yaml": OURS}, tmp_path)

    with pytest.raises(UsageError, match="cannot be written"):
        write_files({"a.yaml": OURS + "b: 2\n", "a.yaml/c.yaml": OURS}, tmp_path, force=True)

    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]
    assert (tmp_path / "a.yaml").read_text() == OURS


def test_one_text_holds_every_file() -> None:
    text = as_one_text({"a.yaml": "a: 1\n", "b.yaml": "b: 2\n"})

    assert text == "---\n# a.yaml\na: 1\n---\n# b.yaml\nb: 2\n"
