"""The state folder is its user's alone: nobody else reads it, or plants a record in it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlserve.errors import UsageError
from mlserve.launch.command import write_files
from mlserve.launch.logs import follow, last_lines, log_path, rotate
from mlserve.launch.private_files import create_private, require_own, seal
from mlserve.launch.records import read_records, remove_record, state_lock, write_record
from tests.launch.test_records import RECORD

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


@pytest.mark.server
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


@pytest.mark.server
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


# Nothing of the state folder is read or written through a link to another file.

TEXT = "a file of the victim's\n"
Link = Callable[[Path], None]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of this user's that no command is to read or to change."""
    file = tmp_path / "victim"
    file.write_text(TEXT)
    return file


@pytest.fixture(params=["symlink", "hard link"])
def link(request: pytest.FixtureRequest, victim: Path) -> Link:
    """Puts a link to the victim's file at that path."""

    def put(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if request.param == "symlink":
            path.symlink_to(victim)
        else:
            os.link(victim, path)

    return put


@pytest.fixture(autouse=True)
def unharmed(victim: Path) -> object:
    yield
    assert victim.read_text() == TEXT


def test_a_record_that_is_a_link_is_named_and_left_out(link: Link, home: Path) -> None:
    write_record(RECORD)
    link(home / "state/servers/planted.json")
    told: list[str] = []
    assert read_records(told.append) == [RECORD]
    assert "planted.json is a link" in told[0]
    assert TEXT.strip() not in told[0]


def test_a_record_is_written_in_place_of_a_link_not_through_it(link: Link, home: Path) -> None:
    link(home / "state/servers/echo-m.json")
    link(home / f"state/servers/.echo-m.json.{os.getpid()}")
    write_record(RECORD)
    assert read_records() == [RECORD]


def test_a_link_is_not_taken_for_the_record_to_remove(link: Link, home: Path) -> None:
    path = home / "state/servers/echo-m.json"
    link(path)
    remove_record(RECORD)
    assert os.path.lexists(path)


def test_a_lock_that_is_a_link_is_refused(link: Link, home: Path) -> None:
    link(home / "state/lock")
    with pytest.raises(UsageError, match="lock is a link"), state_lock():
        pytest.fail("the lock of another file was taken")


def test_a_key_that_is_a_link_seals_nothing(link: Link, home: Path) -> None:
    link(home / "state/key")
    with pytest.raises(UsageError, match="key is a link"):
        seal("a label")


def test_a_log_that_is_a_link_is_not_shown(link: Link, home: Path) -> None:
    path = log_path("echo-m")
    link(path)
    assert last_lines(path, 10) == []
    with pytest.raises(UsageError, match=r"echo-m\.log is a link"):
        next(follow(path, None, lambda: False))


@pytest.mark.server
def test_logs_says_of_a_link_what_it_is(cli, link: Link) -> None:
    link(log_path("echo-m"))
    done = cli("logs", "echo-m")
    assert done.returncode == 2
    assert TEXT not in done.stdout
    assert "echo-m.log is a link" in done.stderr


def test_a_log_is_begun_in_place_of_a_link_not_through_it(link: Link, home: Path) -> None:
    path = log_path("echo-m")
    link(path)
    rotate(path)
    link(path)  # it came back between the two
    with create_private(path) as log:
        log.write(b"a line of the server's\n")
    assert path.read_text() == "a line of the server's\n"


def test_the_files_of_a_server_are_private_and_written_through_no_link(
    link: Link, home: Path
) -> None:
    folder = home / "state/files/tf"
    link(folder / "models.config")
    write_files({"models.config": "new"}, folder)
    assert (folder / "models.config").read_text() == "new"
    assert (folder / "models.config").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700


def test_a_record_that_is_no_file_is_named_at_once(home: Path) -> None:
    """Reading a pipe that nobody writes would last for ever."""
    write_record(RECORD)
    os.mkfifo(home / "state/servers/pipe.json")
    told: list[str] = []
    assert read_records(told.append) == [RECORD]
    assert "pipe.json is not a plain file" in told[0]


def test_what_is_made_on_the_way_to_the_state_folder_is_closed_to_writers(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write to a folder may put another one in place of those that it holds."""
    monkeypatch.setenv("MLSERVE_HOME", str(home / "deep" / "er"))
    before = os.umask(0)
    try:
        write_record(replace(RECORD, name="other"))
    finally:
        os.umask(before)
    for folder in (home, home / "deep", home / "deep/er"):
        assert folder.stat().st_mode & 0o022 == 0, folder
