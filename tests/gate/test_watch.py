"""A folder that is watched: real files, real inotify."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest

from mlserve.errors import MlserveError, Unavailable, UsageError
from mlserve.gate import watch
from mlserve.gate.watch import FileId, FolderWatch, Found
from mlserve.testing.processes import wait_until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux's")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "camera"
    made.mkdir()
    return made


class Watcher:
    """Watches on a thread, and knows the names that came, in their order."""

    def __init__(self, folder: Path) -> None:
        self.watch = FolderWatch(folder)
        self.names: list[str] = []
        self.error: MlserveError | None = None
        self._thread = Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> list[str]:
        self.watch.end()
        if self._thread.ident is not None:
            self._thread.join(20)
        assert not self._thread.is_alive()
        return self.names

    def came(self, *names: str) -> None:
        """Wait until these have come, and nothing else."""
        wait_until(lambda: len(self.names) >= len(names))
        assert self.names == list(names)

    def _run(self) -> None:
        try:
            for found in self.watch.files():
                self.watch.know(found.id)
                self.names.append(found.path.name)
        except MlserveError as error:
            self.error = error


@pytest.fixture
def watcher(folder: Path) -> Iterator[Watcher]:
    started = Watcher(folder)
    with closing(started.watch):
        yield started
        started.end()


def test_files_come_once_in_the_order_in_which_they_are_written(
    folder: Path, watcher: Watcher
) -> None:
    for when, name in enumerate(("z.jpg", "b.PNG", "a.jpeg")):  # those that are there, by time
        (folder / name).write_bytes(b"there")
        os.utime(folder / name, (when, when))
    watcher.start()
    watcher.came("z.jpg", "b.PNG", "a.jpeg")
    for number in range(300):
        (folder / f"part-{number % 7}-{number}.jpg").write_bytes(b"x" * number)
    wait_until(lambda: len(watcher.names) == 303)
    assert watcher.end()[3:] == [f"part-{number % 7}-{number}.jpg" for number in range(300)]


def test_a_file_comes_only_when_it_is_whole(folder: Path, watcher: Watcher) -> None:
    begun = (folder / "begun.jpg").open("wb")  # by somebody who writes when the watch begins
    begun.write(b"half")
    begun.flush()
    watcher.start()
    slow = (folder / "slow.jpg").open("wb")
    slow.write(b"half")
    slow.flush()
    (folder / ".hidden.jpg").write_bytes(b"x")
    (folder / "note.txt").write_bytes(b"x")
    (folder / "folder.jpg").mkdir()
    (folder / "first.tmp").write_bytes(b"x")
    (folder / "first.tmp").rename(folder / "first.jpg")
    watcher.came("first.jpg")
    slow.close()
    watcher.came("first.jpg", "slow.jpg")
    begun.close()
    watcher.came("first.jpg", "slow.jpg", "begun.jpg")
    (folder / "ready.tmp").write_bytes(b"y")
    (folder / "linked.jpg").hardlink_to(folder / "ready.tmp")
    watcher.came("first.jpg", "slow.jpg", "begun.jpg", "linked.jpg")


def test_the_same_file_does_not_come_again(folder: Path, watcher: Watcher) -> None:
    watcher.start()
    (folder / "a.jpg").write_bytes(b"one")
    watcher.came("a.jpg")
    (folder / "a.jpg").rename(folder / "done-a.jpg")  # a new name
    with (folder / "done-a.jpg").open("ab"):  # opened for writing, and not written
        pass
    (folder / "b.jpg").write_bytes(b"two")
    watcher.came("a.jpg", "b.jpg")
    (folder / "b.jpg").write_bytes(b"another part")  # a new content under the same name
    watcher.came("a.jpg", "b.jpg", "b.jpg")


def test_a_file_that_is_finished_while_it_is_looked_at_comes_once(
    folder: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen without its last bytes, and nobody has it open any more when that is asked."""
    is_written = watch._is_written
    begun = (folder / "a.jpg").open("wb")

    def finish_before(found: Found) -> bool | None:
        if not begun.closed:
            begun.write(b"the rest")
            begun.close()
        return is_written(found)

    monkeypatch.setattr(watch, "_is_written", finish_before)
    watcher.start()
    watcher.came("a.jpg")
    (folder / "b.jpg").write_bytes(b"two")
    watcher.came("a.jpg", "b.jpg")


def test_what_was_decided_before_does_not_come(folder: Path, watcher: Watcher) -> None:
    for name in ("old.jpg", "new.jpg"):
        (folder / name).write_bytes(name.encode())
    old = FileId.of((folder / "old.jpg").stat())
    assert old in watcher.watch.present()
    watcher.watch.know(old)
    watcher.start()
    watcher.came("new.jpg")


def test_a_lost_event_loses_no_file(folder: Path, watcher: Watcher) -> None:
    """More events than the kernel keeps for us."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 50_000:
        pytest.skip("the kernel keeps too many events to overflow them in a short test")
    (folder / "a.jpg").write_bytes(b"a")
    for number in range(most // 2 + 100):  # a rename is two events, an opening one more
        (folder / "a.jpg").rename(folder / f"b{number % 2}.txt")
        (folder / f"b{number % 2}.txt").rename(folder / "a.jpg")
    (folder / "last.jpg").write_bytes(b"z")
    watcher.start()
    wait_until(lambda: "last.jpg" in watcher.names)
    assert sorted(watcher.end()) == ["a.jpg", "last.jpg"]


def test_a_folder_that_goes_ends_the_watch(folder: Path, watcher: Watcher) -> None:
    watcher.start()
    folder.rmdir()
    wait_until(lambda: watcher.error is not None)
    assert isinstance(watcher.error, Unavailable)
    assert f"the folder {folder} is gone" in watcher.error.message


def test_only_one_watches_a_folder(folder: Path, watcher: Watcher) -> None:
    with pytest.raises(UsageError, match="another gate watches"):
        FolderWatch(folder)
    with pytest.raises(UsageError, match="No such file"):
        FolderWatch(folder / "none")


def test_without_leases_a_file_has_to_settle(
    folder: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another user's files."""
    tried: list[str] = []

    def unknown(found: Found) -> None:
        tried.append(found.path.name)

    monkeypatch.setattr(watch, "_is_written", unknown)
    monkeypatch.setattr(watch, "_SETTLED", 0.3)
    (folder / "a.jpg").write_bytes(b"a")
    watcher.start()
    watcher.came("a.jpg")
    assert len(tried) > 1


def test_a_file_whose_time_is_ahead_of_ours_settles(
    folder: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a camera with another clock, or after ours was put back."""
    monkeypatch.setattr(watch, "_is_written", lambda found: None)
    monkeypatch.setattr(watch, "_SETTLED", 0.3)
    (folder / "a.jpg").write_bytes(b"a")
    os.utime(folder / "a.jpg", (2**32, 2**32))
    watcher.start()
    watcher.came("a.jpg")


def test_a_link_comes_when_its_file_is_whole(
    folder: Path, tmp_path: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No event comes of it, because it is written elsewhere."""
    monkeypatch.setattr(watch, "_SETTLED", 0.1)
    watcher.start()
    with (tmp_path / "elsewhere").open("wb") as file:
        (folder / "linked.jpg").symlink_to(tmp_path / "elsewhere")
        (folder / "b.jpg").write_bytes(b"b")
        watcher.came("b.jpg")
        file.write(b"whole")
    watcher.came("b.jpg", "linked.jpg")


def test_more_files_than_are_kept_in_mind(
    folder: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is not read for each of them."""
    monkeypatch.setattr(watcher.watch, "_most_known", 10)
    monkeypatch.setattr(watch, "_MOST_KNOWN", 10)
    for number in range(50):
        (folder / f"{number}.jpg").write_bytes(b"x")
    reads: list[dict[FileId, float]] = []
    present = watcher.watch.present

    def counted() -> dict[FileId, float]:
        reads.append(present())
        return reads[-1]

    monkeypatch.setattr(watcher.watch, "present", counted)
    watcher.start()
    wait_until(lambda: len(watcher.names) == 50)
    (folder / "last.jpg").write_bytes(b"x")
    wait_until(lambda: "last.jpg" in watcher.names)
    assert len(watcher.end()) == 51
    assert 0 < len(reads) < 5


def test_a_writer_is_not_disturbed(folder: Path, watcher: Watcher) -> None:
    """Other processes open files for writing while it is tried whether they may be read."""
    program = (
        "import sys\n"
        "for number in range(400):\n"
        "    for name in ('a', 'b'):\n"
        "        with open(f'{sys.argv[1]}/{name}{number % 5}.jpg', 'ab') as file:\n"
        "            file.write(b'x')\n"
    )
    watcher.start()
    writers = [subprocess.Popen([sys.executable, "-c", program, str(folder)]) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sum(sizes.values()) == 1600
    wait_until(lambda: set(watcher.names) == set(sizes))
