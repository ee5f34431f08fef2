"""Files of plain data that lie: nested without end, numbers without end, pipes and devices."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mlserve.artifact import MANIFEST_NAME, Manifest, read_plain
from mlserve.errors import ExportError, UsageError
from mlserve.labels import read_labels
from mlserve.launch.logs import last_words
from mlserve.launch.private_files import private_folder, state_folder
from mlserve.launch.records import read_records
from mlserve.pipeline import ImagePipeline
from mlserve.store import VersionPolicy
from mlserve.testing.colours import PIPELINE

DEEP = "[" * 200_000


def test_a_manifest_that_is_nested_without_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text(DEEP)
    with pytest.raises(UsageError, match=r"mlserve\.json cannot be read: .*nested too deep"):
        Manifest.read(tmp_path)


def test_a_manifest_that_is_a_pipe_or_a_device_is_an_error(tmp_path: Path) -> None:
    """Each would be read for ever."""
    os.mkfifo(tmp_path / MANIFEST_NAME)
    with pytest.raises(UsageError, match="not a regular file"):
        Manifest.read(tmp_path)
    (tmp_path / MANIFEST_NAME).unlink()
    (tmp_path / MANIFEST_NAME).symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="not a regular file"):
        Manifest.read(tmp_path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="more than 1 MiB"):
        read_plain(path, 2**20)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_pixels", 10**30),
        ("max_pixels", 0),
        ("max_pixels", "1"),
        ("height", 10**9),
        ("width", -1),
        ("classes", 10**12),
        ("class_offset", 7),
        ("top_k", 1.5),
        ("max_scans", True),
        ("scale", float("nan")),
        ("offset", None),
    ],
)
def test_a_number_that_no_pipeline_has_is_an_error(name: str, value: Any) -> None:
    data = {**PIPELINE.to_json(), name: value}
    with pytest.raises(ValueError, match=f"{name} is "):
        ImagePipeline.from_json(data)


def test_the_pipeline_of_a_manifest_is_read_as_it_was_written() -> None:
    written = json.loads(json.dumps(PIPELINE.to_json()))
    assert asdict(ImagePipeline.from_json(written)) == asdict(PIPELINE)


@pytest.mark.parametrize("digits", [401, 10_000])
def test_a_version_without_end_is_a_usage_error(digits: int) -> None:
    with pytest.raises(UsageError, match="is not a version") as refused:
        VersionPolicy.parse(["9" * digits])
    assert len(refused.value.message) < 100


def test_a_record_that_is_nested_without_end_hurts_no_other_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLSERVE_HOME", str(tmp_path / "home"))
    folder = private_folder(state_folder() / "servers")
    (folder / "m.json").write_text(DEEP)
    told: list[str] = []
    assert read_records(told.append) == []
    assert "m.json" in told[0]


def test_the_log_of_a_server_that_is_nested_without_end_has_last_words() -> None:
    line = '{"ts": ' + DEEP
    assert last_words([line]) is None or "[[" in str(last_words([line]))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_labels_from_an_endless_file_are_an_error() -> None:
    with pytest.raises(ExportError, match="more than 64 MiB"):
        read_labels(Path("/dev/zero"))


def test_a_label_without_end_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("cat\n" + "a" * 10_001)
    with pytest.raises(ExportError, match="a label of 10001 characters"):
        read_labels(path)


def test_labels_from_a_pipe_are_read(tmp_path: Path) -> None:
    """A shell makes them: --labels <(sort labels.txt)."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as file:
        file.write("cat\nd\0g\n")
    assert read_labels(Path(f"/dev/fd/{read}")) == ("cat", "d\0g")
    os.close(read)
