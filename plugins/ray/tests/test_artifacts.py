"""The files of a version on a node: found, brought, and refused if they are others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlserve_ray.artifacts import Absent, Nearby, chunks_of, identity
from mlserve_ray.reports import Offer

from mlserve.errors import ModelLoadFailed
from tests.harness.echo import manifest, put_version

Put = Callable[..., Path]


@pytest.fixture
def version(tmp_path: Path, home: Path) -> Path:
    return put_version(tmp_path / "m" / "1", manifest=manifest(), label="a")


def offer(folder: Path, base_path: Path, **more: Any) -> Offer:
    return Offer(1, identity(folder), str(base_path), **more)


def nearby() -> Nearby:
    return Nearby("m", "node-2", lambda piece: piece)


def test_the_same_files_under_the_same_path_are_used(version: Path) -> None:
    assert nearby().folder(offer(version, version.parent)) == version


def test_others_under_the_same_path_are_not_used_and_both_digests_are_said(
    version: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = put_version(tmp_path / "other" / "1", manifest=manifest(), label="b")
    caplog.set_level(logging.WARNING, logger="mlserve_ray.artifacts")
    with pytest.raises(Absent):
        nearby().folder(offer(version, other.parent))
    assert identity(version) in caplog.text
    assert identity(other) in caplog.text


def test_files_that_were_brought_are_kept_by_their_digest(version: Path, tmp_path: Path) -> None:
    chunks = chunks_of(version, lambda piece: piece)
    wanted = offer(version, tmp_path / "nowhere", chunks=chunks)
    found = nearby().folder(wanted)
    assert found != version
    assert identity(found) == identity(version)
    assert (found / "echo.json").read_bytes() == (version / "echo.json").read_bytes()
    assert nearby().folder(offer(version, tmp_path / "nowhere")) == found


def test_files_that_changed_on_the_way_are_refused(version: Path, tmp_path: Path) -> None:
    chunks = {**chunks_of(version, lambda piece: piece), "echo.json": (b"{}",)}
    with pytest.raises(ModelLoadFailed, match=r"echo.json .* instead of"):
        nearby().folder(offer(version, tmp_path / "nowhere", chunks=chunks))
    assert not list((tmp_path / "home").rglob("replicas/*/*"))


def test_an_address_with_other_files_is_an_error_with_both_digests(
    version: Path, tmp_path: Path
) -> None:
    other = put_version(tmp_path / "other" / "1", manifest=manifest(), label="b")
    wanted = offer(version, tmp_path / "nowhere", address=str(other.parent))
    with pytest.raises(ModelLoadFailed) as raised:
        nearby().folder(wanted)
    assert identity(version) in raised.value.message
    assert identity(other) in raised.value.message


def test_an_address_with_the_version_is_used(version: Path, tmp_path: Path) -> None:
    wanted = offer(version, tmp_path / "nowhere", address=str(version.parent))
    assert nearby().folder(wanted) == version


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a//b", "."])
def test_a_file_is_never_written_outside(version: Path, tmp_path: Path, name: str) -> None:
    chunks = {name: (b"x",)}
    with pytest.raises(ModelLoadFailed, match="is no file of a version"):
        nearby().folder(offer(version, tmp_path / "nowhere", chunks=chunks))
