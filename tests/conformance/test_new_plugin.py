"""`mlserve plugins new`: what it writes is clean and installable.

That its own tests and the conformance suite pass, and that its sample is served, is shown by
`docs/backend-tutorial.md`, whose commands `tests/test_docs.py` runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlserve.errors import ExitCode, UsageError
from mlserve.new_plugin.write import write_plugin

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new backend `two_words`; it is installed into its subfolder `site`."""
    folder = tmp_path_factory.mktemp("new") / "project"
    written = json.loads(
        _mlserve("plugins", "new", "two_words", "--into", str(folder), "--output", "json").stdout
    )
    assert {Path(path).name for path in written["files"]} >= {"plugin.py", "runner.py"}
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", folder / "site", folder], check=True)
    return folder


def _mlserve(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "mlserve", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)


def _run(project: Path, *argv: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(project / "site"), "MLSERVE_HOME": str(home), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", *argv],
        cwd=project,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_linters_find_nothing(project: Path, tmp_path: Path) -> None:
    checks = (("ruff", "check", "."), ("ruff", "format", "--check", "mlserve_two_words"))
    for check in checks:
        done = _run(project, *check, "--config", "line-length=100", home=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_one_without_an_export_says_so_before_a_model_is_opened(
    project: Path, tmp_path: Path
) -> None:
    only_serves = tmp_path / "only_serves"
    shutil.copytree(project, only_serves)
    plugin = only_serves / "mlserve_two_words" / "plugin.py"
    text, count = re.subn(
        r"    def export\(.*?(?=    def load)", "", plugin.read_text(), flags=re.DOTALL
    )
    assert count == 1
    plugin.write_text(text)
    shutil.copytree(plugin.parent, only_serves / "site" / plugin.parent.name, dirs_exist_ok=True)
    weights = tmp_path / "w.json"
    weights.write_text("{}")
    export = ("export", "--backend", "two_words", "--model", "m", "--weights", str(weights))
    done = _run(only_serves, "mlserve", *export, home=tmp_path)

    assert done.returncode == ExitCode.EXPORT, done.stderr
    assert "error: the backend 'two_words' only serves models and cannot export them" in done.stderr
    assert "hint: export with another backend" in done.stderr


@pytest.mark.parametrize("name", ["Two", "2two", "two-words", "two__words", "two words", ""])
def test_a_name_that_is_not_valid(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        write_plugin(name, tmp_path / "new")
    assert refused.value.message == f"{name!r} is not a valid name of a backend"
    assert refused.value.hint
    assert not (tmp_path / "new").exists()


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the name 'tfserving' is taken"):
        write_plugin("tfserving", tmp_path / "new")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"file/new cannot be written: Not a directory") as refused:
        write_plugin("fresh", tmp_path / "file" / "new")
    assert refused.value.hint == "choose a folder that you may write to: --into DIR"


def test_a_folder_that_exists(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        write_plugin("fresh", tmp_path)
    assert (tmp_path / "kept").read_text() == "mine"
