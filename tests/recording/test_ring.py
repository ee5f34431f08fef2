"""The files that a server writes: within their limit, its own alone, and private."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mlserve.errors import UsageError
from mlserve.recording import folder as folders
from mlserve.recording.folder import (
    SegmentFile,
    is_written,
    oldest_first,
    prepare,
    require_writable,
    segments_in,
)
from mlserve.recording.reading import Recording
from mlserve.recording.records import Kind, SampledBytes
from mlserve.recording.ring import LEAST_BYTES, Ring
from mlserve.recording.segment import (
    BLOCK_HEAD,
    REQUEST_SIZE,
    Entries,
    size_of_bytes,
    size_of_kind,
)

KIND = Kind(code="ok")


def ring_in(folder: Path, most: int = LEAST_BYTES) -> Ring:
    return Ring(folder, most, began=1000.0, share=0.0, clock=lambda: 0.0)


class Writer:
    """Writes numbered requests of one kind to a ring, as the recorder's thread does."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.entries = Entries()

    def write(self, numbers: range, body: int = 0) -> None:
        if not self._fits(numbers, body):
            self.entries.begin_file()
            self.ring.begin()
        for number in numbers:
            known = self.entries.kinds.get(())
            known = self.entries.add_kind((), KIND) if known is None else known
            sample = SampledBytes(bytes(body)) if body else None
            self.entries.add(known, float(number), 0.0, 0.1, 0.0, 0.0, 0.0, 0.0, number, sample)
        self.ring.write(self.entries.take())

    def _fits(self, numbers: range, body: int) -> bool:
        each = REQUEST_SIZE + (size_of_bytes(body) if body else 0)
        size = BLOCK_HEAD + size_of_kind(KIND) + len(numbers) * each
        return size <= self.ring.room


def numbers_in(folder: Path) -> list[int]:
    return [each.bytes_in for each in Recording.open([folder]).requests()]


def size_of(folder: Path) -> int:
    return sum(file.size for file in segments_in(folder))


def test_the_oldest_go_and_the_limit_holds_at_all_times(tmp_path: Path) -> None:
    writer = Writer(ring_in(tmp_path))
    for block in range(300):
        writer.write(range(block * 200, block * 200 + 200))
        assert size_of(tmp_path) <= LEAST_BYTES
    kept = numbers_in(tmp_path)
    assert kept == list(range(kept[0], 300 * 200))  # no gap, and the newest are there
    assert kept[0] > 0
    assert size_of(tmp_path) > LEAST_BYTES // 2


def test_bodies_count_within_the_limit_too(tmp_path: Path) -> None:
    ring = ring_in(tmp_path)
    writer = Writer(ring)
    for number in range(60):
        writer.write(range(number, number + 1), body=2 * ring.sizes.body)
        assert size_of(tmp_path) <= LEAST_BYTES
    assert numbers_in(tmp_path)[-1] == 59
    assert len(numbers_in(tmp_path)) > 10


def test_each_process_has_files_of_its_own_and_one_limit_holds_for_all(tmp_path: Path) -> None:
    """As for two servers with one folder, and for a server that was started again."""
    writers = [Writer(ring_in(tmp_path)) for _ in range(2)]
    for block in range(200):
        for number, writer in enumerate(writers):
            first = (2 * block + number) * 100
            writer.write(range(first, first + 100))
        assert size_of(tmp_path) <= LEAST_BYTES
    assert len({file.process for file in segments_in(tmp_path)}) == 2
    kept = numbers_in(tmp_path)
    for number in range(2):  # of each the newest are there, without a gap
        own = sorted(each for each in kept if each // 100 % 2 == number)
        assert own == [n for n in range(own[0], 200 * 200) if n // 100 % 2 == number]
        assert len(own) > 5000
    for writer in writers:
        writer.ring.close()
    again = Writer(ring_in(tmp_path))
    again.write(range(40_000, 40_100))
    assert max(numbers_in(tmp_path)) == 40_099
    assert len({file.process for file in segments_in(tmp_path)}) == 3


def test_a_file_that_is_written_to_is_not_removed(tmp_path: Path) -> None:
    idle = Writer(ring_in(tmp_path))
    idle.write(range(10))
    [own] = segments_in(tmp_path)
    assert is_written(own.path)
    busy = Writer(ring_in(tmp_path))
    for block in range(200):
        busy.write(range(block * 200, block * 200 + 200))
    assert own.path.exists()
    idle.ring.close()
    assert not is_written(own.path)
    for block in range(30):
        busy.write(range(block * 200, block * 200 + 200))
    assert not own.path.exists()


def test_files_that_somebody_takes_away_are_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    writer = Writer(ring_in(folder))
    writer.write(range(3))
    [first] = segments_in(folder)
    first.path.unlink()
    folder.rmdir()
    writer.write(range(3, 6))
    assert numbers_in(folder) == [3, 4, 5]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_of_a_write_that_fails_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(ring_in(tmp_path))
    writer.write(range(5))
    before = size_of(tmp_path)
    write: Callable[..., int] = os.write
    calls: list[int] = []

    def half(descriptor: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            writer.write(range(5, 9))
    assert size_of(tmp_path) == before
    writer.entries.drop()
    writer.ring.close()
    writer.write(range(9, 12))
    assert numbers_in(tmp_path) == [0, 1, 2, 3, 4, 9, 10, 11]


def test_the_folder_and_its_files_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "records"
    assert prepare(folder) is None
    Writer(ring_in(folder)).write(range(1))
    [file] = segments_in(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_folder_of_recordings_alone_is_closed_and_another_is_told(tmp_path: Path) -> None:
    own, mixed = tmp_path / "own", tmp_path / "mixed"
    for folder in (own, mixed):
        folder.mkdir()
        Writer(ring_in(folder)).write(range(1))
        folder.chmod(0o755)
    (mixed / "notes.txt").write_text("x")
    assert prepare(own) is None
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert "other users may list" in str(prepare(mixed))
    assert stat.S_IMODE(mixed.stat().st_mode) == 0o755


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    for folder in (file, file / "below", dangling):
        with pytest.raises(UsageError, match=r"\(--record\) cannot be written"):
            require_writable(folder)
        with pytest.raises(UsageError, match=r"\(--record\) cannot be written"):
            prepare(folder)
    require_writable(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()  # nothing is made by looking


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_another_user_is_told(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(UsageError, match="this user may not write"):
        require_writable(closed / "records")


def test_no_file_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "process_name", lambda: "20261127T163400Z-1-aaaa")
    first, second = ring_in(tmp_path), ring_in(tmp_path)
    first.begin()
    with pytest.raises(FileExistsError):
        second.begin()


def test_the_limit_holds_while_many_servers_fill_their_files(tmp_path: Path) -> None:
    """Each file that is written counts as what it may grow to; a server too many does not begin."""
    writers = [Writer(ring_in(tmp_path)) for _ in range(13)]
    for block in range(40):
        for writer in writers:
            writer.write(range(block * 200, block * 200 + 200))
            assert size_of(tmp_path) <= LEAST_BYTES
    for _ in range(2):
        writers.append(Writer(ring_in(tmp_path)))
        writers[-1].write(range(5))
    one_too_many = Writer(ring_in(tmp_path))
    with pytest.raises(OSError, match="other servers that record to it take its 1048576 bytes"):
        one_too_many.write(range(5))
    for writer in writers:
        writer.ring.close()
    one_too_many.write(range(5))


def test_after_a_clock_was_set_back_the_newest_are_kept() -> None:
    def file(process: str, number: int, written: int) -> SegmentFile:
        return SegmentFile(Path(f"{process}.{number}"), process, number, 1, written)

    now = 150
    set_back = [file("b", 1, 190), file("b", 2, 200), file("b", 3, 120), file("b", 4, 150)]
    earlier = [file("a", 1, 100), file("a", 2, 110)]
    found = [str(each.path) for each in oldest_first([*set_back, *earlier], now)]
    assert found == ["b.1", "b.2", "a.1", "a.2", "b.3", "b.4"]
    assert found.index("b.4") == len(found) - 1


def test_a_pipe_or_a_link_that_is_named_as_a_recording_is_none(tmp_path: Path) -> None:
    name = "20261127T163400Z-1-aaaa.000001.mlrec"
    os.mkfifo(tmp_path / name)
    (tmp_path / name.replace("000001", "000002")).symlink_to("/dev/zero")
    assert segments_in(tmp_path) == []
    Writer(ring_in(tmp_path)).write(range(3))
    assert numbers_in(tmp_path) == [0, 1, 2]
