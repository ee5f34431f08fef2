"""The store lists what was published, publishes whole versions only, and sweeps after a crash."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from mlserve.errors import ExportError, NotFound, UsageError
from mlserve.incoming import VersionExists
from mlserve.store import Store

WRITER = """
import sys
from pathlib import Path
from mlserve.store import Store
with Store(Path(sys.argv[1])).incoming("echo", "m") as incoming:
    (incoming.path / "half").write_text("written")
    print(incoming.path, flush=True)
    sys.stdin.read()
"""
StartPython = Callable[[str, Path], "subprocess.Popen[str]"]


StartPython = Callable[[str, Path], "subprocess.Popen[str]"]


@pytest.fixture
def start_python() -> Iterator[StartPython]:
    """Starts Python code in a process of its own; it is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, argument: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(argument)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def publish(store: Store, version: int, model: str = "m") -> Path:
    with store.incoming("echo", model) as incoming:
        (incoming.path / "file").write_text(str(version))
        return incoming.publish(version)


def hidden(store: Store) -> list[Path]:
    return list(store.base_path("echo", "m").glob(".*"))


def wait_for_line(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_lists_backends_models_and_versions_in_order(store: Store) -> None:
    for version in (2, 10, 1):
        publish(store, version)
    publish(store, 1, model="another")
    assert store.backends() == ["echo"]
    assert store.models("echo") == ["another", "m"]
    assert store.versions("echo", "m") == [1, 2, 10]
    assert store.find("echo", "m").version == 10
    assert store.find("echo", "m", 2).path == store.base_path("echo", "m") / "2"


def test_a_version_may_have_zeros_in_front(store: Store) -> None:
    """As TensorFlow's own exporters have written it: 00000123."""
    publish(store, 7)
    (store.base_path("echo", "m") / "00000123").mkdir()
    assert store.versions("echo", "m") == [7, 123]
    assert store.find("echo", "m").path.name == "00000123"
    with pytest.raises(ExportError, match="00000123"):
        store.require_free("echo", "m", 123)


@pytest.mark.parametrize("name", ["-1", "+1", "1a", ".incoming-x", "best", "²"])
def test_only_whole_numbers_are_versions(store: Store, name: str) -> None:
    (store.base_path("echo", "m") / name).mkdir(parents=True)
    (store.base_path("echo", "m") / "3").write_text("a file, not a folder")
    assert store.versions("echo", "m") == []
    assert store.models("echo") == []


def test_an_absent_model_is_not_found_and_what_is_there_is_named(store: Store) -> None:
    publish(store, 4)
    with pytest.raises(NotFound, match=r"no model 'horse' .*there: m") as absent:
        store.find("echo", "horse")
    assert absent.value.hint == "mlserve export --backend echo --model horse"
    with pytest.raises(NotFound, match=r"no version 5 .*there: 4"):
        store.find("echo", "m", 5)


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert store.backends() == []
    with pytest.raises(NotFound, match="there: none"):
        store.find("echo", "m")


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "ä", "a\n", "x" * 129])
def test_unsafe_names_are_refused(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="is not a valid model name"):
        store.base_path("echo", name)


def test_nothing_is_left_of_a_version_that_was_not_published(store: Store) -> None:
    def interrupted() -> None:
        with store.incoming("echo", "m") as incoming:
            (incoming.path / "half").write_text("written")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(store.root.iterdir()) == []
    publish(store, 1)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(store.root.rglob("*")) == [
        *(store.root / "echo", store.root / "echo/m"),
        *(store.root / "echo/m/1", store.root / "echo/m/1/file"),
    ]


@pytest.mark.slow
def test_an_empty_folder_of_a_model_goes_while_others_export(store: Store) -> None:
    """Each export that fails removes what is empty, just when another one may have found it."""
    has_ended = Event()

    def fail_again_and_again() -> None:
        while not has_ended.is_set():
            with store.incoming("echo", "m"):
                pass

    with ThreadPoolExecutor(2) as others:
        failing = [others.submit(fail_again_and_again) for _ in range(2)]
        try:
            for _ in range(300):
                shutil.rmtree(publish(store, 1))
        finally:
            has_ended.set()
    assert [one.result() for one in failing] == [None, None]
    assert list(store.root.iterdir()) == []


def test_a_version_is_never_overwritten(store: Store) -> None:
    publish(store, 1)
    with store.incoming("echo", "m") as incoming, pytest.raises(VersionExists):
        incoming.publish(1)
    (store.base_path("echo", "m") / "2").mkdir()
    with store.incoming("echo", "m") as incoming, pytest.raises(VersionExists):
        incoming.publish(2)
    assert (store.find("echo", "m", 1).path / "file").read_text() == "1"
    assert not hidden(store)


def test_a_killed_writer_leaves_nothing_that_lists_and_the_next_sweeps_it(
    store: Store, start_python: StartPython
) -> None:
    process = start_python(WRITER, store.root)
    left = wait_for_line(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (left / "half").exists()
    assert store.versions("echo", "m") == []
    publish(store, 1)
    assert not hidden(store)


def test_a_writer_that_runs_is_not_swept(store: Store, start_python: StartPython) -> None:
    process = start_python(WRITER, store.root)
    theirs = wait_for_line(process)
    publish(store, 1)
    assert (theirs / "half").exists()


def test_a_terminated_writer_cleans_up_and_says_so(store: Store, start_python: StartPython) -> None:
    process = start_python(WRITER, store.root)
    theirs = wait_for_line(process)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert not theirs.exists()
    assert list(store.root.iterdir()) == []


def test_the_folders_stay_for_another_writer(store: Store, start_python: StartPython) -> None:
    process = start_python(WRITER, store.root)
    theirs = wait_for_line(process)
    with store.incoming("echo", "m"):
        pass
    assert (theirs / "half").exists()
    process.send_signal(signal.SIGINT)
    process.wait()
    assert list(store.root.iterdir()) == []


def test_a_store_that_is_no_folder_is_named(store: Store) -> None:
    store.root.write_text("a file")
    with pytest.raises(UsageError, match=str(store.root)) as unreadable:
        store.versions("echo", "m")
    assert "MLSERVE_HOME" in (unreadable.value.hint or "")
    with pytest.raises(ExportError, match=str(store.root)), store.incoming("echo", "m"):
        pytest.fail("there is nothing to write into")


def test_an_error_about_another_file_is_left_as_it_is(store: Store) -> None:
    with pytest.raises(PermissionError), store.incoming("echo", "m"):
        raise PermissionError(errno.EACCES, "no", "/somewhere/else/weights.h5")


def test_a_failing_writer_of_a_full_disk_is_an_export_error(store: Store) -> None:
    with pytest.raises(ExportError, match="no space left") as full, store.incoming("echo", "m"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "--store DIR" in (full.value.hint or "")
    assert store.versions("echo", "m") == []
    assert not hidden(store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; only a system that lets this process mount one has it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_store_as_it_was(small_disk: Path) -> None:
    store = Store(small_disk)
    publish(store, 1)
    with (
        pytest.raises(ExportError, match=f"no space left .*{small_disk}"),
        store.incoming("echo", "m") as incoming,
    ):
        (incoming.path / "weights").write_bytes(b"0" * 100_000)
    assert store.versions("echo", "m") == [1]
    assert not hidden(store)
    publish(store, 2)


@pytest.mark.parametrize("kind", ["link to a folder", "link to nothing", "file"])
def test_what_only_looks_like_a_killed_export_is_left_alone(tmp_path: Path, kind: str) -> None:
    """A link could lead the sweep to any folder of this user."""
    store, victim = Store(tmp_path / "store"), tmp_path / "victim"
    publish(store, 1)
    victim.mkdir()
    (victim / "file").write_text("of the victim")
    planted = store.base_path("echo", "m") / ".incoming-planted"
    if kind == "file":
        planted.write_text("of the victim")
    else:
        planted.symlink_to(victim if "folder" in kind else tmp_path / "gone")
    publish(store, 2)
    assert store.versions("echo", "m") == [1, 2]
    assert planted.lstat()
    assert (victim / "file").read_text() == "of the victim"
