"""Each benchmark says what it measures, and starts nothing when it is only asked that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
FOLDERS = (FOLDER, *(FOLDER / name for name in ("peers", "overload", "policies")))
SCRIPTS = [
    path
    for folder in FOLDERS
    for path in sorted(folder.glob("*.py"))
    if "ArgumentParser" in path.read_text()
]
_ASK_ALL = """
import contextlib, io, json, runpy, sys
said = {}
for script in sys.argv[1:]:
    sys.argv[:] = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    said[script] = out.getvalue()
print(json.dumps(said))
"""


@pytest.mark.server
def test_help(tmp_path: Path) -> None:
    """Asks all of them in one process, as each imports the same libraries for seconds."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK_ALL, *map(str, SCRIPTS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, FOLDERS))},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == set(map(str, SCRIPTS))
    for script in SCRIPTS:
        assert f"usage: {script.name} [-h]" in said[str(script)]
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written <= {"keras.json"}, "which Keras writes when it is imported, unless it has one"
