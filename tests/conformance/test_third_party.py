"""A third-party backend, made only of the files that docs/write-a-backend.md shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server
_PAGE = Path(__file__).parents[2] / "docs" / "write-a-backend.md"
_BLOCK = re.compile(r"([^\n]+\n)+\n```(toml|python)\n(?P<content>.*?)```\n", re.DOTALL)
_NAME = re.compile(r"`([\w/]+\.(?:py|toml))`")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the distribution; it is installed into its subfolder `site`."""
    folder = tmp_path_factory.mktemp("myruntime")
    for block in _BLOCK.finditer(_PAGE.read_text()):
        path = folder / _NAME.findall(block[0].partition("```")[0])[-1]
        path.parent.mkdir(exist_ok=True)
        path.write_text(block["content"])
    (folder / "mlserve_myruntime" / "__init__.py").touch()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", folder / "site", folder], check=True)
    return folder


def _run(project: Path, *argv: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(project / "site"), "MLSERVE_HOME": str(home), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, *argv],
        cwd=project,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_what_contributing_shows_passes_the_suite(project: Path, tmp_path: Path) -> None:
    done = _run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", home=tmp_path)

    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert passed, done.stdout[-2000:]
    assert int(passed[1]) > 35


def test_a_backend_that_only_serves_says_so_before_a_model_is_opened(
    project: Path, tmp_path: Path
) -> None:
    command = ("-m", "mlserve", "export", "--backend", "myruntime", "--model", "echo")
    done = _run(project, *command, home=tmp_path)

    assert done.returncode == 4, done.stderr
    assert "error: the backend 'myruntime' only serves models and cannot export them" in done.stderr
    assert "hint: export with another backend" in done.stderr
    assert "opening" not in done.stderr
