"""Versions are removed and copied whole, whatever comes between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlserve.artifact import MANIFEST_NAME, Manifest
from mlserve.errors import ExportError, ModelLoadFailed, NotFound, UsageError
from mlserve.incoming import sweep
from mlserve.inventory import ModelFolder, StoredVersion
from mlserve.pin import write_pin
from mlserve.store import Store
from mlserve.store_changes import copy, remove, surplus
from tests.harness.echo import manifest, put_version

KILLED_WHILE_REMOVING = """
import os, shutil, signal, sys
from pathlib import Path
from mlserve.inventory import ModelFolder
from mlserve.store_changes import remove
shutil.rmtree = lambda path: os.kill(os.getpid(), signal.SIGKILL)
remove(ModelFolder("echo", "m", Path(sys.argv[1])), 1)
"""


@pytest.fixture
def folder(store: Store) -> ModelFolder:
    """A model with the versions 1 to 4."""
    folder = ModelFolder("echo", "m", store.base_path("echo", "m"))
    for version in range(1, 5):
        put_version(folder.base_path / str(version), manifest=manifest(), label=str(version))
    return folder


def numbers(folder: ModelFolder) -> list[int]:
    return [version.artifact.version for version in folder.versions()]


def test_what_is_removed_is_gone_and_the_rest_stays(folder: ModelFolder) -> None:
    remove(folder, 2)
    assert sorted(path.name for path in folder.base_path.iterdir()) == ["1", "3", "4"]
    with pytest.raises(NotFound, match=r"echo/m has no version 2 \(there: 1, 3, 4\)"):
        remove(folder, 2)


def test_a_version_is_removed_without_a_look_at_the_others(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    monkeypatch.setattr("mlserve.inventory._look", lambda path, *_: looks.append(path))
    remove(folder, 2)
    assert looks == []


def test_the_folders_go_with_the_last_version_and_its_pin(
    store: Store, folder: ModelFolder
) -> None:
    write_pin(folder.base_path, 1)
    for version in range(1, 5):
        remove(folder, version)
    assert list(store.root.iterdir()) == []


def test_killed_while_it_removes_it_leaves_nothing_that_lists(folder: ModelFolder) -> None:
    argv = [sys.executable, "-c", KILLED_WHILE_REMOVING, str(folder.base_path)]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    assert numbers(folder) == [2, 3, 4]
    [left] = folder.base_path.glob(".*")
    assert (left / MANIFEST_NAME).exists()
    sweep(folder.base_path)  # as the next export does
    assert not left.exists()


def test_of_a_link_only_the_link_is_removed(folder: ModelFolder, tmp_path: Path) -> None:
    elsewhere = (folder.base_path / "4").rename(tmp_path / "elsewhere")
    (folder.base_path / "4").symlink_to(elsewhere)
    remove(folder, 4)
    assert numbers(folder) == [1, 2, 3]
    assert (elsewhere / MANIFEST_NAME).exists()


def kept(folder: ModelFolder, keep: int, in_use: tuple[int, ...] = ()) -> list[int]:
    versions = folder.versions()
    gone = {v.artifact.version for v in surplus(versions, keep, in_use)}
    return [v.artifact.version for v in versions if v.artifact.version not in gone]


def test_the_highest_stay_and_what_is_in_use_or_pinned(folder: ModelFolder) -> None:
    assert kept(folder, 2) == [3, 4]
    assert kept(folder, 9) == [1, 2, 3, 4]
    assert kept(folder, 1, in_use=(1,)) == [1, 4]
    write_pin(folder.base_path, 2)
    assert kept(folder, 1) == [2, 4]


def test_a_damaged_version_does_not_count_and_an_unknown_one_stays(folder: ModelFolder) -> None:
    (folder.base_path / "4" / "echo.json").unlink()
    (put_version(folder.base_path / "5", manifest=manifest()) / MANIFEST_NAME).unlink()
    newer = put_version(folder.base_path / "6", manifest=manifest()) / MANIFEST_NAME
    newer.write_text('{"format": 99}')
    assert kept(folder, 2) == [2, 3, 5, 6]


def latest(folder: ModelFolder) -> StoredVersion:
    return folder.version(4)


def test_a_copy_in_another_store_is_whole_and_takes_no_room(
    folder: ModelFolder, tmp_path: Path
) -> None:
    made = copy(latest(folder), Store(tmp_path / "other"))
    assert made.path == tmp_path / "other" / "echo" / "m" / "4"
    made.require_whole()
    original = latest(folder).artifact.path
    assert made.path.joinpath("echo.json").samefile(original / "echo.json")
    remove(folder, 4)
    made.require_whole()


def test_a_copy_of_another_name_says_so_and_leaves_the_original(
    store: Store, folder: ModelFolder
) -> None:
    made = copy(latest(folder), store, model="canary", version=1, links=False)
    assert (made.path.parent.name, made.version) == ("canary", 1)
    assert made.manifest is not None
    assert made.manifest.model == "canary"
    original = Manifest.read(latest(folder).artifact.path)
    assert original is not None
    assert original.model == "m"
    assert not made.path.joinpath("echo.json").samefile(latest(folder).artifact.path / "echo.json")


def test_a_copy_replaces_nothing(store: Store, folder: ModelFolder) -> None:
    with pytest.raises(ExportError, match="version 1 is there already"):
        copy(latest(folder), store, version=1)
    assert "1" in (folder.base_path / "1" / "echo.json").read_text()
    assert not list(folder.base_path.glob(".*"))


def test_a_damaged_version_is_not_copied(folder: ModelFolder, tmp_path: Path) -> None:
    path = folder.base_path / "4" / "echo.json"
    path.write_bytes(path.read_bytes().upper())
    with pytest.raises(ModelLoadFailed, match=rf"{path} was changed"):
        copy(latest(folder), Store(tmp_path / "other"))
    assert not (tmp_path / "other" / "echo").exists()


def test_a_link_that_leads_nowhere_is_named_and_nothing_is_copied(
    store: Store, folder: ModelFolder
) -> None:
    (folder.base_path / "2" / "gone").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"2/gone cannot be read: No such file"):
        copy(folder.version(2), store, version=9)
    assert numbers(folder) == [1, 2, 3, 4]


def test_a_version_of_a_newer_mlserve_is_not_copied(folder: ModelFolder, tmp_path: Path) -> None:
    (folder.base_path / "4" / MANIFEST_NAME).write_text('{"format": 99}')
    with pytest.raises(UsageError, match="a newer mlserve"):
        copy(latest(folder), Store(tmp_path / "other"))


def test_what_is_being_copied_is_not_copied(store: Store, folder: ModelFolder) -> None:
    (folder.base_path / "4" / MANIFEST_NAME).unlink()
    with pytest.raises(ModelLoadFailed, match=r"echo/m@4: it has no mlserve.json") as told:
        copy(latest(folder), store, version=9)
    assert "once every file is there" in str(told.value.hint)
    assert numbers(folder) == [1, 2, 3, 4]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_to_another_file_system_the_files_are_copied(folder: ModelFolder, tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"mlserve-test-{os.getpid()}"
    try:
        copy(latest(folder), Store(other)).require_whole()
    finally:
        remove(ModelFolder("echo", "m", other / "echo" / "m"), 4)
        other.rmdir()
