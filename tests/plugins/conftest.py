"""Distributions that exist only as files: a module and its `dist-info` folder on PYTHONPATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BACKEND = """
from mlserve.backend import Backend
from mlserve.plugins import hookimpl

class Toy(Backend):
    name = "{name}"
    summary = "A toy."
    install_hint = "pip install toy-runtime"
    requires = {requires!r}

    def export(self, model, into):
        return ()

    def load(self, artifact, options):
        raise NotImplementedError

@hookimpl
def mlserve_backend():
    return Toy
"""


class Site:
    """A folder of distributions. `run` is a Python process that finds them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def backend(self, name: str, requires: tuple[str, ...] = ()) -> str:
        """The source of a plugin with one backend."""
        return BACKEND.format(name=name, requires=requires)

    def add(self, distribution: str, plugin: str, source: str) -> None:
        """A distribution with one plugin, in a module named after the distribution."""
        module = distribution.replace("-", "_")
        (self.folder / f"{module}.py").write_text(source)
        info = self.folder / f"{module}-1.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[mlserve]\n{plugin} = {module}\n")

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *argv],
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder)


@pytest.fixture
def parts(site: Site) -> Callable[[], dict[str, dict[str, object]]]:
    """What `mlserve plugins --output json` lists, by name; backends win over sources."""

    def read() -> dict[str, dict[str, object]]:
        done = site.run("-m", "mlserve", "plugins", "--output", "json")
        assert done.returncode == 0, done.stderr
        listed = sorted(json.loads(done.stdout), key=lambda part: part["kind"] == "backend")
        return {part["name"]: part for part in listed}

    return read
