"""The pin of a model: written whole, read by whoever serves the folder, named when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlserve.errors import NotFound, UsageError
from mlserve.pin import PIN_NAME, pin_or_none, read_pin, write_pin
from mlserve.store import VersionPolicy


def test_a_pin_is_read_as_it_was_written_and_can_be_removed(tmp_path: Path) -> None:
    assert read_pin(tmp_path) is None
    write_pin(tmp_path, 3)
    write_pin(tmp_path, 2**63 - 1)
    assert read_pin(tmp_path) == 2**63 - 1
    assert [path.name for path in tmp_path.iterdir()] == [PIN_NAME]
    write_pin(tmp_path, None)
    write_pin(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_other_users_can_read_a_pin(tmp_path: Path) -> None:
    """The server may run as another user than the one who exports."""
    write_pin(tmp_path, 1)
    (tmp_path / "plain").touch()
    assert (tmp_path / PIN_NAME).stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"format": 2, "version": 1}', "format 2 is not known"),
        ('{"format": 1}', "KeyError: 'version'"),
        ('{"format": 1, "version": "1"}', "'1' is not a version"),
        ('{"format": 1, "version": true}', "True is not a version"),
        ("[" * 5000, "it has more than"),
    ],
)
def test_a_pin_that_cannot_be_read_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / PIN_NAME).write_text(text)
    with pytest.raises(UsageError, match=reason) as wrong:
        read_pin(tmp_path)
    assert str(tmp_path / PIN_NAME) in wrong.value.message
    assert wrong.value.hint == (
        f"to serve the latest version: mlserve models use latest --path {tmp_path}"
    )
    assert pin_or_none(tmp_path) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone/serving.json cannot be written: No such file"):
        write_pin(tmp_path / "gone", 1)


def test_the_pin_takes_the_place_of_the_latest_only(tmp_path: Path) -> None:
    write_pin(tmp_path, 1)
    named, every = VersionPolicy((2,)), VersionPolicy(serves_all=True)
    assert VersionPolicy().at(tmp_path, (1, 2)) == VersionPolicy((1,))
    assert VersionPolicy(latest=2).at(tmp_path, (1, 2)) == VersionPolicy((1,))
    assert named.at(tmp_path, (1, 2)) is named
    assert every.at(tmp_path, (1, 2)) is every


def test_a_pin_of_a_version_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_pin(tmp_path, 3)
    with pytest.raises(NotFound, match=r"has no version 3, which is pinned \(there: 1, 2\)"):
        VersionPolicy().at(tmp_path, (1, 2))
