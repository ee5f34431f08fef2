"""The file that processes share: what it may hold, where it may lie, and who may write it."""

from __future__ import annotations

import errno
import math
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.client.budgets import FORGOTTEN_AFTER, Budget, Budgets, key_of, shared_path

NOW = 1000.0
BUDGET = Budget(3.0, NOW - 1, NOW - 2, NOW + 5, 0.83)
KEY = key_of("endpoint", "model")
_LATER = NOW + 0.1
"""By then a budget that was missing is looked for again."""
_MOST_BYTES = 2**15


def test_processes_share_what_one_of_them_knows(tmp_path: Path) -> None:
    one, other = (Budgets(str(tmp_path / "file")) for _ in range(2))
    assert other.read(KEY, NOW - 1) is None
    one.write(KEY, BUDGET, NOW)

    assert one.read(KEY, NOW) == other.read(KEY, NOW) == BUDGET
    other.write(KEY, BUDGET._replace(left=2), NOW)
    assert one.read(KEY, NOW) == BUDGET._replace(left=2)
    assert one.read(key_of("endpoint", "model2"), NOW) is None
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_file_that_can_no_longer_be_written_does_not_hide_what_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full by now; the entry in the file is not ten seconds old."""
    budgets = Budgets(str(tmp_path / "file"))
    budgets.write(KEY, BUDGET, NOW)
    monkeypatch.setattr(os, "pwrite", _no_space)
    later = BUDGET._replace(left=40.0, counted_at=NOW)
    budgets.write(KEY, later, NOW)
    assert budgets.read(KEY, NOW) == later


def test_a_budget_is_forgotten(tmp_path: Path) -> None:
    budgets = Budgets(str(tmp_path / "file"))
    budgets.write(KEY, BUDGET, NOW)
    last = BUDGET.refused_at + FORGOTTEN_AFTER
    assert budgets.read(KEY, last - 0.01) == BUDGET
    assert budgets.read(KEY, last + 0.01) is None


def test_a_process_may_have_looked_at_the_clock_before_another_wrote(tmp_path: Path) -> None:
    budgets = Budgets(str(tmp_path / "file"))
    budgets.write(KEY, BUDGET, NOW)
    assert budgets.read(KEY, BUDGET.counted_at - 0.01) == BUDGET


@pytest.mark.parametrize(
    "odd",
    [
        BUDGET._replace(left=-1),
        BUDGET._replace(left=math.nan),
        BUDGET._replace(price=math.inf),
        BUDGET._replace(come_back_at=math.nan),
        BUDGET._replace(counted_at=NOW + 60),
        BUDGET._replace(refused_at=NOW - 0.5),
    ],
)
def test_what_no_process_writes_is_no_budget(tmp_path: Path, odd: Budget) -> None:
    budgets = Budgets(str(tmp_path / "file"))
    budgets.write(KEY, odd, NOW)
    assert budgets.read(KEY, NOW) is None
    budgets.write(KEY, BUDGET, NOW)
    assert Budgets(str(tmp_path / "file")).read(KEY, NOW) == BUDGET


@given(garbage=st.binary(max_size=2 * _MOST_BYTES), key=st.integers(1, 2**64 - 1))
def test_a_file_of_garbage_is_as_good_as_none(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, key: int
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "file"
    path.write_bytes(garbage)
    path.chmod(0o600)
    budgets = Budgets(str(path))
    assert budgets.read(key, NOW) is None
    budgets.write(key, BUDGET, NOW)
    assert Budgets(str(path)).read(key, NOW) == BUDGET


@pytest.mark.parametrize("size", [0, 1, 7, 64, 100, _MOST_BYTES - 1])
def test_a_file_may_be_cut_short_while_it_is_used(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    budgets = Budgets(str(path))
    for number in range(100):
        budgets.write(key_of(str(number)), BUDGET, NOW)
    os.truncate(path, size)
    for number in range(100):
        budgets.read(key_of(str(number)), NOW)
    budgets.write(KEY, BUDGET, NOW)
    assert budgets.read(KEY, NOW) == BUDGET


def test_a_removed_file_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    one, other = Budgets(str(path)), Budgets(str(path))
    one.write(KEY, BUDGET, NOW)
    path.unlink()
    assert one.read(KEY, NOW) is None
    one.write(KEY, BUDGET, NOW)
    assert other.read(KEY, NOW) == BUDGET


def test_the_file_never_grows(tmp_path: Path) -> None:
    path = tmp_path / "file"
    budgets = Budgets(str(path))
    keys = [key_of(str(number)) for number in range(1200)]
    for key in keys:
        budgets.write(key, BUDGET, NOW)
    assert path.stat().st_size <= _MOST_BYTES
    assert {budgets.read(key, _LATER) for key in keys} == {BUDGET}, "the rest is kept here"

    new = keys[0] + 1
    after = BUDGET.refused_at + FORGOTTEN_AFTER + 1
    budget = BUDGET._replace(refused_at=after, counted_at=after)
    budgets.write(new, budget, after)
    assert Budgets(str(path)).read(new, after) == budget, "an old one gave way"


def _folder(path: Path) -> None:
    path.mkdir()


def _link(path: Path) -> None:
    path.with_name("target").touch(mode=0o600)
    path.symlink_to("target")


def _second_name(path: Path) -> None:
    path.with_name("target").touch(mode=0o600)
    path.hardlink_to(path.with_name("target"))


def _writable_by_others(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


@pytest.mark.parametrize(
    "make", [_folder, _link, _second_name, _writable_by_others, os.mkfifo], ids=lambda f: f.__name__
)
def test_what_is_no_file_of_this_user_alone_is_left_alone(tmp_path: Path, make: object) -> None:
    path = tmp_path / "file"
    make(path)  # type: ignore[operator]
    budgets = Budgets(str(path))
    budgets.write(KEY, BUDGET, NOW)

    assert budgets.read(KEY, NOW) == BUDGET, "this process knows it"
    assert Budgets(str(path)).read(KEY, NOW) is None
    assert not path.is_file() or not path.read_bytes()


def test_the_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    Budgets(str(path)).write(KEY, BUDGET, NOW)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert Budgets(str(path)).read(KEY, NOW) is None


def test_no_place_for_a_file(tmp_path: Path) -> None:
    budgets = Budgets(str(tmp_path / "missing" / "file"))
    budgets.write(KEY, BUDGET, NOW)
    assert budgets.read(KEY, NOW) == BUDGET
    assert not list(tmp_path.iterdir())


def test_where_the_file_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert Path(shared_path()).parent == tmp_path
    assert str(os.geteuid()) in Path(shared_path()).name
    for absent in ("", str(tmp_path / "absent")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", absent)
        assert Path(shared_path()).parent == Path("/dev/shm")


def test_a_key_tells_words_apart() -> None:
    assert len({key_of("a", "b"), key_of("ab"), key_of("b", "a"), key_of("", "ab")}) == 4
    assert struct.pack("<Q", key_of("a\udcff"))


def _no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, "no space left on device")
