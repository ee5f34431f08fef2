"""What is served under a pin, and what `mlserve up` says of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mlserve.cli.export_choice import tell_of_other_exports
from mlserve.errors import ModelLoadFailed, NotFound, UsageError
from mlserve.model_choice import about_pin, by_number, choose, require_whole
from mlserve.pin import write_pin
from mlserve.served_model import ServedModel
from mlserve.settings import DEFAULT_BACKEND, EMBEDDED, NATIVE
from mlserve.store import Store, VersionPolicy

LATEST = VersionPolicy()


@pytest.fixture
def base(export: Callable[..., Path]) -> Path:
    """The folder of a model with the versions 1 and 2, of which 1 is pinned."""
    export(version=1)
    base = export(version=2)
    write_pin(base, 1)
    return base


def chosen(versions: VersionPolicy = LATEST) -> ServedModel:
    return choose("echo", "m", None, versions)


def test_the_pinned_version_is_expected_and_the_pin_is_followed(base: Path) -> None:
    assert (chosen().expected, chosen().versions) == ((1,), LATEST)
    assert chosen(VersionPolicy((2,))).expected == (2,)
    write_pin(base, 7)
    with pytest.raises(NotFound, match=r"has no version 7, which is pinned \(there: 1, 2\)"):
        chosen()


def test_for_a_server_that_reads_no_pins_the_version_is_named(base: Path) -> None:
    assert by_number(chosen()).versions == VersionPolicy((1,))
    named = chosen(VersionPolicy((2,)))
    assert by_number(named) is named
    write_pin(base, None)
    assert by_number(chosen()).versions == LATEST


@pytest.mark.parametrize(
    ("asked", "launcher", "told"),
    [
        (LATEST, EMBEDDED, "version 1 of m is pinned; to serve the latest version: mlse"),
        (LATEST, NATIVE, "version 1 of m is pinned; this server serves it until"),
        (VersionPolicy((2,)), EMBEDDED, "--version takes precedence"),
        (VersionPolicy(serves_all=True), EMBEDDED, "--version takes precedence"),
    ],
)
def test_the_user_is_told_of_the_pin(
    base: Path, asked: VersionPolicy, launcher: str, told: str
) -> None:
    assert told in str(about_pin(asked, chosen(asked), follows_pin=launcher == EMBEDDED))


def test_nothing_is_told_where_the_pin_changes_nothing(base: Path) -> None:
    named = VersionPolicy((1,))
    assert about_pin(named, chosen(named), follows_pin=True) is None
    write_pin(base, None)
    assert about_pin(LATEST, chosen(), follows_pin=True) is None


def test_the_files_of_what_is_expected_are_checked(base: Path) -> None:
    (base / "2" / "echo.json").write_text("other")
    require_whole(chosen())
    with pytest.raises(ModelLoadFailed, match=r"2/echo.json has 5 bytes instead of 2"):
        require_whole(chosen(VersionPolicy((2,))))


def test_other_exports_that_may_have_been_meant_are_told(
    export: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The default backend comes before others, so the last export may not be what is served."""
    echo = export("m")
    shutil.copytree(echo, Store().base_path(DEFAULT_BACKEND, "m"))

    found = choose(None, None, None, LATEST)
    tell_of_other_exports(found, None, None)
    said = capsys.readouterr().err

    assert found.backend == DEFAULT_BACKEND
    assert f"this is the export for {DEFAULT_BACKEND}; there is also --backend echo " in said
    tell_of_other_exports(found, "another", None)
    assert capsys.readouterr().err == ""


def test_where_several_fit_those_of_every_backend_are_listed(export: Callable[..., Path]) -> None:
    echo = export("m")
    for model in ("one", "two"):
        shutil.copytree(echo, Store().base_path(DEFAULT_BACKEND, model))

    with pytest.raises(UsageError, match=r"3 exported models fit: m \(echo\), one \(.*, two \("):
        choose(None, None, None, LATEST)
