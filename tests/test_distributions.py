"""What our distributions say of themselves, and what hints say of them: never the index's names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from mlserve import __version__, plugins
from mlserve.distributions import CORE, FOLDERS, install_command, not_installed

CHECKOUT = Path(__file__).parents[1]
NAMES = pytest.mark.parametrize("name", FOLDERS)


def _project(name: str) -> dict[str, Any]:
    text = (CHECKOUT / FOLDERS[name] / "pyproject.toml").read_text()
    found: dict[str, Any] = tomllib.loads(text)["project"]
    return found


def _ours(requirements: list[str]) -> dict[str, Requirement]:
    parsed = map(Requirement, requirements)
    return {found.name: found for found in parsed if found.name in FOLDERS}


def test_every_distribution_of_the_checkout_is_known() -> None:
    folders = {path.parent for path in CHECKOUT.glob("plugins/*/pyproject.toml")} | {CHECKOUT}

    assert {(CHECKOUT / folder).resolve() for folder in FOLDERS.values()} == folders
    assert {_project(name)["name"] for name in FOLDERS} == set(FOLDERS)
    named = {wanted.partition("[")[0] for wanted in plugins.KNOWN.values()}
    assert named == {
        name for name in FOLDERS if "mlserve" in _project(name).get("entry-points", {})
    }


@NAMES
def test_a_hint_installs_all_of_ours_that_an_extra_needs(name: str) -> None:
    project = _project(name)
    for extra, requirements in project.get("optional-dependencies", {}).items():
        command = install_command(f"{name}[{extra}]")
        assert f"-e '{(CHECKOUT / FOLDERS[name]).resolve()}[{extra}]'" in command
        for needed in _ours(requirements).values():
            if needed.name not in (name, CORE):
                (own,) = needed.extras
                assert f"-e '{CHECKOUT / FOLDERS[needed.name]}[{own}]'" in command


@pytest.mark.server
def test_a_hint_is_a_command_that_pip_takes(tmp_path: Path) -> None:
    command = install_command(f"{CORE}[server]").removeprefix("pip ")
    done = subprocess.run(
        f'"{sys.executable}" -m pip {command} --no-deps --no-build-isolation --dry-run --quiet',
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels of all distributions, built as anybody builds them, by name."""
    into = tmp_path_factory.mktemp("wheels")
    for folder in FOLDERS.values():
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", into, folder],
            cwd=CHECKOUT,
            check=True,
            capture_output=True,
        )
    return {path.name.split("-")[0].replace("_", "-"): path for path in into.glob("*.whl")}


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


@pytest.mark.server
@NAMES
def test_a_wheel_brings_its_readme_its_licence_and_what_it_runs_on(
    wheels: dict[str, Path], name: str
) -> None:
    metadata = _metadata(wheels[name])
    readme = CHECKOUT / FOLDERS[name] / "README.md"
    with zipfile.ZipFile(wheels[name]) as archive:
        (licence,) = (path for path in archive.namelist() if path.endswith("/LICENSE"))
        text = archive.read(licence)

    assert metadata["Version"] == __version__
    assert metadata.get_payload(decode=True).decode().strip() == readme.read_text().strip()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert text == (CHECKOUT / "LICENSE").read_bytes()
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Programming Language :: Python :: 3.11" in metadata.get_all("Classifier", [])


@pytest.mark.server
@NAMES
def test_a_wheel_fits_this_version_of_the_others_and_no_later_line(
    wheels: dict[str, Path], name: str
) -> None:
    for needed in _ours(_metadata(wheels[name]).get_all("Requires-Dist", [])).values():
        if needed.name != name:
            assert __version__ in needed.specifier, needed
            assert "0.2.0" not in needed.specifier, needed


@pytest.mark.server
def test_what_came_from_a_wheel_names_the_wheels_beside_it(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", target, wheels[CORE]], check=True)
    code = (
        "from mlserve.distributions import install_command as i; import mlserve; "
        "print(mlserve.__file__); print(i('mlserve-tfserving[export]'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    where, command = done.stdout.splitlines()
    assert where.startswith(str(target))
    named = re.findall(r"'(.+?\.whl)\[\w+\]'", command)
    assert [Path(path) for path in named] == [wheels["mlserve-models"], wheels["mlserve-tfserving"]]


_INDEX = re.compile(r"pip install (-\S+ )*['\"]?mlserve")


def test_nothing_says_to_install_mlserve_from_the_index() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--", "*.py", "*.md", "*.sh", "*Dockerfile", "Makefile"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode:
        pytest.skip("not a checkout of git")
    paths = [CHECKOUT / name for name in tracked.stdout.split("\0") if name]
    said = [
        f"{path.relative_to(CHECKOUT)}: {line.strip()}"
        for path in paths
        if path != Path(__file__) and path.exists()
        for line in path.read_text().splitlines()
        if _INDEX.search(line)
    ]

    assert not said


def test_what_is_absent_is_named_in_one_sentence() -> None:
    one, two = not_installed("x", "a", hint="h"), not_installed("x", "a", "b", hint="h")
    assert (one.message, one.hint) == ("x needs a, which is not installed", "h")
    assert two.message == "x needs a, b, which are not installed"
