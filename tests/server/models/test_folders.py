"""What is read from the file system: version folders and the cgroup's CPUs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlserve.artifact import version_folder
from mlserve.server.models.folders import fingerprint
from mlserve.store import VersionPolicy, present_versions
from mlserve.system import usable_cpus

ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (VersionPolicy(), (3,)),
        (VersionPolicy(serves_all=True), (1, 2, 3)),
        (VersionPolicy(versions=(2, 1, 9)), (1, 2)),
    ],
)
def test_the_versions_a_policy_wants(policy: VersionPolicy, wanted: tuple[int, ...]) -> None:
    assert policy.wanted((1, 2, 3)) == wanted
    assert policy.wanted(()) == ()


def test_only_numbers_are_versions(tmp_path: Path) -> None:
    for name in ("3", "0", "12", "-1", "01", ".incoming-4", "9" * 20, "5x", "+6", "٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").touch()
    assert present_versions(tmp_path) == (0, 1, 3, 12)


def test_zeros_in_front_do_not_make_another_version(tmp_path: Path) -> None:
    for name in ("00000123", "7", "007", "0008", "08"):
        (tmp_path / name).mkdir()
    assert present_versions(tmp_path) == (7, 8, 123)
    found = {version: version_folder(tmp_path, version).name for version in (7, 8, 123, 9)}
    assert found == {7: "7", 8: "08", 123: "00000123", 9: "9"}


def test_a_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    empty = fingerprint(tmp_path)
    (tmp_path / "variables").mkdir()
    folder = fingerprint(tmp_path)
    (tmp_path / "variables" / "data").write_text("12")
    before = fingerprint(tmp_path)
    (tmp_path / "variables" / "data").write_text("123")
    assert len({empty, folder, before, fingerprint(tmp_path)}) == 4
    assert fingerprint(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(
    ("name", "text", "cpus"),
    [
        ("cpu.max", "100000 100000", 1),
        ("cpu.max", "50000 100000", 1),
        ("cpu.max", "max 100000", ALLOWED),
        ("cpu.max", "99999900000 100000", ALLOWED),
    ],
)
def test_the_quota_of_a_cgroup(tmp_path: Path, name: str, text: str, cpus: int) -> None:
    (tmp_path / name).write_text(text + "\n")
    assert usable_cpus(tmp_path) == cpus


def test_the_quota_of_an_older_cgroup(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cpus(tmp_path) == 1
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cpus(tmp_path) == ALLOWED


def test_no_cgroup_at_all(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == ALLOWED
