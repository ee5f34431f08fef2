"""An environment that lacks a package: what `doctor`, `plugins` and `up` say of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mlserve
from mlserve import plugins
from mlserve.distributions import absent_packages, install_command

Without = Callable[..., Callable[..., subprocess.CompletedProcess[str]]]
_RUN = """
import runpy, site, sys
site.addsitedir(sys.argv.pop(1))
runpy.run_module("mlserve", run_name="__main__")
"""


@pytest.fixture
def without(tmp_path: Path, home: Path) -> Without:
    """`without("httptools")("doctor")` runs the command where everything else is installed."""

    def prepare(*prefixes: str) -> Callable[..., subprocess.CompletedProcess[str]]:
        site = tmp_path / "site"
        site.mkdir()
        for entry in Path(pytest.__file__).parents[1].iterdir():
            if not entry.name.lower().startswith(prefixes):
                (site / entry.name).symlink_to(entry)

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-S", "-c", _RUN, site, *words],
                env={**os.environ, "DOCKER_HOST": "unix:///nowhere.sock", "NO_COLOR": "1"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        return run

    return prepare


def finding(done: subprocess.CompletedProcess[str], name: str) -> dict[str, Any]:
    assert done.stdout, done.stderr
    findings = json.loads(done.stdout)["findings"]
    return next(found for found in findings if found["name"] == name)


@pytest.mark.server
@pytest.mark.parametrize(
    ("prefixes", "package"),
    [
        (("httptools",), "httptools"),
        (("ml_dtypes",), "ml-dtypes"),
        (("grpc_health", "grpcio_h"), "grpcio-health-checking"),
    ],
)
def test_doctor_names_each_package_that_the_server_lacks(
    without: Without, tmp_path: Path, prefixes: tuple[str, ...], package: str
) -> None:
    mlserve_command = without(*prefixes)
    embedded = finding(mlserve_command("doctor", "--output", "json"), "embedded")
    assert embedded["status"] == "fail"
    assert embedded["text"] == f"cannot start: {package} not installed"
    assert embedded["fix"] == install_command("mlserve[server]")
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "echo.json").write_text("{}")
    up = mlserve_command("up", "--backend", "echo", "--path", str(tmp_path / "m"))
    assert up.returncode == 3
    assert f"the backend 'echo' cannot serve: {package} not installed" in up.stderr


@pytest.mark.server
def test_plugins_knows_those_that_are_not_installed(without: Without) -> None:
    own = ("mlserve_onnx", "_editable_impl_mlserve_onnx")
    done = without(*own)("plugins", "--output", "json")
    (part,) = [part for part in json.loads(done.stdout) if part["name"] == "onnxruntime"]
    assert (part["status"], part["distribution"]) == ("missing", "mlserve-onnxruntime")
    assert part["fix"] == install_command("mlserve-onnxruntime[export]")


def test_every_plugin_of_this_project_is_known() -> None:
    """With an extra that it has, if it has any."""
    folder = Path(mlserve.__file__).parents[1] / "plugins"
    found = {}
    for file in folder.glob("*/pyproject.toml"):
        project = tomllib.loads(file.read_text())["project"]
        for name in project.get("entry-points", {}).get("mlserve", ()):
            found[name] = (project["name"], project.get("optional-dependencies", ()))
    assert set(plugins.KNOWN) == set(found)
    for name, wanted in plugins.KNOWN.items():
        distribution, extras = found[name]
        own, _, extra = wanted.removesuffix("]").partition("[")
        assert own == distribution
        assert extra in extras if extras else not extra


def test_everything_that_serving_needs_is_installed_here() -> None:
    assert absent_packages("mlserve", "server") == []
    for name in ("tfserving", "onnxruntime"):
        assert plugins.absent_to_serve(type(plugins.backend(name))) == []
