"""What a store holds: every version is listed, and one that cannot be used hides no other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlserve.artifact import MANIFEST_NAME
from mlserve.errors import NotFound, UsageError
from mlserve.inventory import (
    Check,
    Checked,
    ModelFolder,
    Reference,
    StoredVersion,
    VersionState,
    check,
    model_folders,
)
from mlserve.pin import write_pin
from mlserve.store import Store
from tests.harness.echo import manifest, put_version


def put(store: Store, version: int, *, backend: str = "echo", model: str = "m") -> Path:
    folder = store.base_path(backend, model) / str(version)
    return put_version(folder, manifest=manifest(model), label=str(version))


def edit(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def folder_of(store: Store, model: str = "m") -> ModelFolder:
    [folder] = model_folders(store, model=model)
    return folder


def states(store: Store) -> dict[int, VersionState]:
    return {v.artifact.version: v.state for v in folder_of(store).versions()}


def test_200_versions_are_listed_in_a_moment(store: Store) -> None:
    for version in range(1, 201):
        put(store, version)
    write_pin(store.base_path("echo", "m"), 7)
    started = time.thread_time()
    versions = folder_of(store).versions()
    assert time.thread_time() - started < 2, "it takes 0.1 s"
    assert [v.artifact.version for v in versions] == list(range(1, 201))
    assert {v.state for v in versions} == {VersionState.WHOLE}
    assert [v.artifact.version for v in versions if v.is_pinned] == [7]
    assert versions[0].source == "test"
    assert versions[0].size == sum(
        path.stat().st_size for path in versions[0].artifact.path.iterdir()
    )


def test_a_version_of_a_newer_mlserve_is_listed_with_the_reason(store: Store) -> None:
    put(store, 1)
    edit(put(store, 2), format=99, mlserve="9.0")
    older, newer = folder_of(store).versions()
    assert (older.state, newer.state) == (VersionState.WHOLE, VersionState.NEWER)
    assert "written by a newer mlserve, 9.0: manifest format 99 is not known" in newer.problem
    assert newer.source == "unknown"
    assert folder_of(store).usual() == older


def test_a_key_that_is_not_known_is_of_a_newer_mlserve(store: Store) -> None:
    edit(put(store, 1), mlserve="9.0", calibration={})
    [newer] = folder_of(store).versions()
    assert newer.state == VersionState.NEWER
    assert "written by a newer mlserve, 9.0: 'calibration' is not known" in newer.problem


def test_a_half_deleted_version_is_damaged_and_its_file_named(store: Store) -> None:
    put(store, 1)
    (put(store, 2) / "echo.json").unlink()
    (put(store, 3) / "labels.txt").write_text("sorrel\n")
    _, without, cut = folder_of(store).versions()
    assert (without.state, without.problem) == (VersionState.DAMAGED, "echo.json is missing")
    assert cut.problem == "labels.txt has 7 bytes instead of 13"


def test_a_version_that_is_being_copied_is_incomplete(store: Store) -> None:
    put(store, 1)
    (put(store, 2) / MANIFEST_NAME).unlink()
    with store.incoming("echo", "m") as incoming:
        (incoming.path / "echo.json").write_text("{}")
        assert states(store) == {1: VersionState.WHOLE, 2: VersionState.INCOMPLETE}


def test_what_mlserve_did_not_export_is_listed(store: Store) -> None:
    put_version(store.base_path("echo", "m") / "1")
    [version] = folder_of(store).versions()
    assert (version.state, version.source) == (VersionState.WHOLE, "not exported by mlserve")
    assert version.created.timestamp() == pytest.approx(time.time(), abs=60)


def test_folders_that_can_hold_no_model_are_not_in_the_way(store: Store) -> None:
    put(store, 1)
    for name in ("lost+found", "a b", ".trash"):
        (store.root / name / "m" / "1").mkdir(parents=True)
        (store.root / "echo" / name / "1").mkdir(parents=True)
    assert [str(folder) for folder in model_folders(store)] == ["echo/m"]


def test_a_pin_that_cannot_be_followed_is_told(store: Store) -> None:
    put(store, 1)
    assert folder_of(store).pin_problem() == ""
    write_pin(store.base_path("echo", "m"), 4)
    assert "has no version 4, which is pinned" in folder_of(store).pin_problem()


@pytest.mark.parametrize("text", ["m", "echo/m", "m@2", "echo/m@2"])
def test_a_model_is_found_by_its_name_or_with_its_backend(store: Store, text: str) -> None:
    put(store, 2)
    put(store, 1, backend="other", model="n")
    reference = Reference.parse(text)
    assert str(reference.find(store)) == "echo/m"
    assert reference.version == (2 if "@" in text else None)


def test_a_backend_is_enough_where_it_has_one_model(store: Store) -> None:
    put(store, 1)
    put(store, 1, backend="other", model="n")
    assert str(Reference.parse("other@1").find(store)) == "other/n"
    put(store, 1, backend="other", model="m")
    with pytest.raises(UsageError, match="'other' matches several models: other/m, other/n"):
        Reference.parse("other").find(store)
    assert str(Reference.parse("other").find(store, model="n")) == "other/n"
    with pytest.raises(UsageError, match="'m' matches several models: echo/m, other/m") as several:
        Reference.parse("m").find(store)
    assert "for example echo/m" in str(several.value.hint)
    assert str(Reference.parse("m").find(store, backend="other")) == "other/m"


def test_without_a_name_it_is_the_only_model(store: Store) -> None:
    with pytest.raises(NotFound, match="no model has been exported yet"):
        Reference().find(store)
    put(store, 1)
    assert str(Reference().find(store)) == "echo/m"
    put(store, 1, model="n")
    with pytest.raises(UsageError, match="2 models were exported: echo/m, echo/n"):
        Reference().find(store)


def test_a_misspelt_name_is_answered_with_the_nearest(store: Store) -> None:
    put(store, 1, model="inception_v3")
    with pytest.raises(NotFound, match="no exported model matches 'incepton_v3'") as unknown:
        Reference.parse("incepton_v3").find(store)
    assert str(unknown.value.hint).startswith("did you mean inception_v3? ")
    with pytest.raises(NotFound) as unknown:
        Reference.parse("echo/resnet@2").find(store)
    assert str(unknown.value.hint).startswith("`mlserve models` lists")
    with pytest.raises(NotFound, match=r"echo/inception_v3 has no version 4 \(there: 1\)"):
        folder_of(store, "inception_v3").version(4)


@pytest.mark.parametrize("text", ["m@", "m@latest", "m@-1", "m@²", "m@" + "9" * 30])
def test_what_is_no_version_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"does not name a version|is not a version number"):
        Reference.parse(text)


def checked(store: Store, damage: Callable[[Path], object]) -> Checked:
    folder = put(store, 1)
    damage(folder)
    return check(folder_of(store).version(1))


def same_size(folder: Path) -> None:
    path = folder / "echo.json"
    path.write_bytes(path.read_bytes().upper())


@pytest.mark.parametrize(
    ("damage", "outcome", "told"),
    [
        (lambda _: None, Check.OK, {}),
        (same_size, Check.DAMAGED, {"echo.json": "was changed"}),
        (lambda f: (f / "x").touch(), Check.DAMAGED, {"x": "is not an exported file"}),
        (lambda f: edit(f, format=99), Check.NOT_CHECKED, "manifest format 99"),
        (lambda f: edit(f, format=2, files=None), Check.NOT_CHECKED, "mlserve 0 exported it"),
        (lambda f: (f / MANIFEST_NAME).write_text("{"), Check.DAMAGED, "cannot be read"),
        (lambda f: (f / MANIFEST_NAME).unlink(), Check.NOT_CHECKED, "mlserve did not export it"),
    ],
)
def test_every_file_is_read_and_compared(
    store: Store, damage: Callable[[Path], object], outcome: Check, told: str | dict[str, str]
) -> None:
    found = checked(store, damage)
    assert found.outcome is outcome
    if isinstance(told, dict):
        assert found.faults == told
    else:
        assert told in found.why


def test_a_version_is_named_as_it_can_be_given(store: Store) -> None:
    put(store, 3)
    version: StoredVersion = folder_of(store).version(3)
    assert Reference.parse(str(version)).find(store).version(3) == version
