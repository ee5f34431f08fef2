"""Which configuration file counts, and which is refused."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from mlserve.config.document import first_of
from mlserve.config.locate import candidates, require_trusted
from mlserve.errors import UsageError


def _found(folder: Path, monkeypatch: pytest.MonkeyPatch, given: str | None = None) -> str | None:
    monkeypatch.chdir(folder)
    document = first_of(candidates(given), are_found=given is None)
    return document and document.shown


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository below a home folder, with a folder `a/b` in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "code/.git").mkdir(parents=True)
    (tmp_path / "code/a/b").mkdir(parents=True)
    return tmp_path / "code"


def test_the_nearest_counts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = repository / "a/b"
    assert _found(below, monkeypatch) is None
    (repository / "mlserve.toml").touch()
    assert _found(below, monkeypatch) == str(repository / "mlserve.toml")
    (repository / "a/pyproject.toml").write_text("[tool.mlserve]\n")
    assert _found(below, monkeypatch) == str(repository / "a/pyproject.toml")
    (below / "mlserve.toml").touch()
    assert _found(below, monkeypatch) == "mlserve.toml"


def test_the_search_ends_at_the_repository(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository.parent / "mlserve.toml").touch()
    assert _found(repository / "a", monkeypatch) is None
    assert _found(repository.parent, monkeypatch) == "mlserve.toml"


def test_the_search_ends_at_the_home_folder(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = repository.parent / "notes"
    elsewhere.mkdir()
    (repository.parent / "mlserve.toml").touch()
    assert _found(elsewhere, monkeypatch) == str(repository.parent / "mlserve.toml")


def test_outside_of_both_only_the_current_folder_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "shared/mine").mkdir(parents=True)
    (tmp_path / "shared/mlserve.toml").touch()
    assert _found(tmp_path / "shared/mine", monkeypatch) is None
    assert _found(tmp_path / "shared", monkeypatch) == "mlserve.toml"


def test_mlserve_toml_goes_before_pyproject(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "pyproject.toml").write_text("[tool.mlserve]\n")
    (repository / "mlserve.toml").touch()
    assert _found(repository, monkeypatch) == "mlserve.toml"


@pytest.mark.parametrize("text", ["[tool.other]\nmlserve = 1\n", 'name = "x"\n', "[broken\n"])
def test_a_pyproject_without_our_table_does_not_count(
    repository: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (repository / "pyproject.toml").write_text(text)
    assert _found(repository, monkeypatch) is None


def test_a_given_file_counts_alone(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "mlserve.toml").touch()
    (repository / "a/other.toml").touch()
    assert _found(repository, monkeypatch, "a/other.toml") == "a/other.toml"
    assert _found(repository, monkeypatch, "none") is None
    with pytest.raises(UsageError, match=r"absent\.toml cannot be read"):
        _found(repository, monkeypatch, "absent.toml")


def test_a_file_that_anybody_may_write_is_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository / "mlserve.toml"
    path.touch()
    path.chmod(0o666)
    with pytest.raises(UsageError, match="can be written by every user, so it is not read") as no:
        _found(repository, monkeypatch)
    assert no.value.hint == f"if you trust it: --config {path}; to go without it: --config none"
    assert _found(repository, monkeypatch, str(path)) == "mlserve.toml"


def test_a_file_of_another_user_is_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository / "mlserve.toml"
    path.touch()
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    if path.stat().st_uid == 0:
        require_trusted(path)  # root may do anything anyway
        os.chown(path, 4242, -1)
    with pytest.raises(UsageError, match="belongs to another user"):
        _found(repository, monkeypatch)


def test_a_removed_folder_has_no_file(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository / "a/b")
    (repository / "a/b").rmdir()
    assert candidates(None) == []


def test_a_user_without_a_home_folder_has_files_too(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    (repository / "mlserve.toml").touch()
    assert _found(repository / "a", monkeypatch) == str(repository / "mlserve.toml")
