"""The state folder is its user's alone: nobody else reads it, or plants a record in it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlserve.errors import UsageError
from mlserve.launch.private_files import require_own
from mlserve.launch.records import read_records, write_record
from tests.launch.test_state import RECORD

is_root = os.geteuid() == 0


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode)
        for path in (folder, *folder.rglob("*"))
    }


@pytest.mark.slow
def test_what_up_writes_is_private_whatever_the_umask(
    cli, export, home: Path, no_umask: None
) -> None:
    export()
    assert cli.up().returncode == 0
    found = modes(home / "state")
    assert set(found) >= {".", "servers", "servers/echo-m.json", "logs", "logs/echo-m.log", "lock"}
    for name, mode in found.items():
        assert mode == (0o700 if (home / "state" / name).is_dir() else 0o600), name


def test_a_state_folder_that_was_open_to_others_is_closed(home: Path) -> None:
    (home / "state").mkdir(parents=True)
    (home / "state").chmod(0o777)
    write_record(RECORD)
    assert stat.S_IMODE((home / "state").stat().st_mode) == 0o700


@pytest.mark.skipif(not is_root, reason="only root can give files away")
def test_a_record_of_another_user_is_left_out(home: Path) -> None:
    write_record(RECORD)
    planted = replace(RECORD, name="planted")
    write_record(planted)
    os.chown(home / "state/servers/planted.json", 12345, 12345)
    told: list[str] = []
    assert read_records(told.append) == [RECORD]
    assert "planted.json belongs to another user (uid 12345)" in told[0]


@pytest.mark.slow
@pytest.mark.skipif(not is_root, reason="only root can give files away")
@pytest.mark.parametrize("part", ["state", "state/servers"])
def test_a_state_folder_of_another_user_is_refused(cli, home: Path, part: str) -> None:
    """With a record in it that names a private file as the token for a port of its owner."""
    write_record(RECORD)
    os.chown(home / part, 12345, 12345)
    image = str(Path(__file__).parents[2] / "examples/horse.jpg")
    for command in (("ps",), ("predict", image), ("logs",), ("down",)):
        done = cli(*command)
        assert done.returncode == 2, (command, done.stderr)
        assert f"{home / part} belongs to another user (uid 12345)" in done.stderr
        assert "hint: set MLSERVE_HOME to a folder of your own" in done.stderr
    os.chown(home / part, os.geteuid(), os.getegid())  # for the fixture, which looks for servers


@pytest.mark.skipif(not is_root, reason="only root can give files away")
def test_a_link_that_another_user_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "link").symlink_to("own")
    os.chown(tmp_path / "link", 12345, 12345, follow_symlinks=False)
    require_own(tmp_path / "own")
    with pytest.raises(UsageError, match="another user"):
        require_own(tmp_path / "link")


@pytest.mark.parametrize("name", ["../../../escaped", "a/b", "", ".hidden", "a\nb"])
def test_a_record_whose_name_is_a_path_is_left_out(home: Path, name: str) -> None:
    write_record(RECORD)
    path = home / "state/servers/echo-m.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": name}))
    told: list[str] = []
    assert read_records(told.append) == []
    assert "is not a valid server name" in told[0]
