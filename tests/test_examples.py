"""The training scripts in `examples/`: each trains, exports, is served and answers as it says.

The commands are those in the first lines of each script. The scripts and the exports run in one
process, as TensorFlow takes seconds to load.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mlserve.testing.processes import wait_until
from tests.documents import ROOT
from tests.harness.command import Command
from tests.harness.model_server import INSTALLED, ModelServer, started

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
_RUN_ALL = """
import json, runpy, sys
from mlserve.cli.app import main
for program, *words in json.loads(sys.argv[1]):
    if program == "python":
        runpy.run_path(words[0], run_name="__main__")
        continue
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


def commands(script: Path) -> list[list[str]]:
    """The commands in the first lines of a script, as words."""
    text = ast.get_docstring(ast.parse(script.read_text())) or ""
    return [shlex.split(line) for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)]


def question(script: Path) -> dict[str, Any]:
    """The inputs of the script's `mlserve predict`, as JSON for TensorFlow Serving's REST API."""
    (words,) = [words for words in commands(script) if words[:2] == ["mlserve", "predict"]]
    given = dict(word.split("=", 1) for word in words[3::2])
    return {name: _value(text) for name, text in given.items()}


def _value(text: str) -> Any:
    """One row, or the rows of an array in a file; what is not JSON is the text itself."""
    if text.startswith("@"):
        return np.load(text.removeprefix("@")).tolist()
    try:
        return [json.loads(text)]
    except ValueError:
        return [text]


def test_each_script_shows_the_whole_path() -> None:
    assert len(SCRIPTS) >= 3
    for script in SCRIPTS:
        steps = [" ".join(words[:2]) for words in commands(script)]
        assert steps == [
            f"python examples/{script.name}",
            *(f"mlserve {name}" for name in ("export", "up", "predict", "down")),
        ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder where every script was run and its model exported; its `home` has the store."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "examples").symlink_to(ROOT / "examples")
    steps = [words for script in SCRIPTS for words in commands(script)[:2]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLSERVE_HOME", str(folder / "home"))
        patch.chdir(folder)
        done = subprocess.run(
            [sys.executable, "-c", _RUN_ALL, json.dumps(steps)],
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield folder


def test_models_of_tensorflow_in_one_server(made: Path) -> None:
    names = ("houses", "reviews")
    store = made / "home" / "data" / "models" / "tfserving"
    config = made / "models.config"
    entries = "".join(f'config {{ name: "{name}" base_path: "{store / name}" }} ' for name in names)
    config.write_text(f"model_config_list {{ {entries} }}")
    with started(INSTALLED, made / "log", f"--model_config_file={config}") as server:
        wait_until(server.is_ready, timeout=120)
        price = ask(server, "houses", question(ROOT / "examples" / "keras_tabular.py"))
        assert 300 < price[0][0] < 460, "2.5 * 120 + 8 * 4 + 0.6 * 95 = 389 thousand"
        good = ask(server, "reviews", question(ROOT / "examples" / "keras_text.py"))
        bad = ask(server, "reviews", {"text": ["an awful and rude place"]})
        assert bad[0][0] < 0.5 < good[0][0]


def ask(server: ModelServer, model: str, inputs: dict[str, Any]) -> Any:
    answer = server.ask(f"{model}:predict", {"inputs": inputs})
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"]


def test_the_detector_finds_the_shape(
    made: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLSERVE_HOME", str(made / "home"))
    monkeypatch.chdir(made)
    up = cli("up", "--model", "shapes", "--grpc-port", 0, "--rest-port", 0, timeout=60)
    assert up.returncode == 0, up.stderr
    try:
        rest = re.search(r"rest (\S+)", up.stdout)
        assert rest is not None
        inputs = question(ROOT / "examples" / "keras_detector.py")
        answer = httpx.post(
            f"{rest[1]}/v1/models/shapes:predict", json={"inputs": inputs}, timeout=20
        )
        found = answer.json()["outputs"]
        assert set(found) == {"boxes", "scores", "classes"}
        left, top, right, bottom = found["boxes"][0]
        assert (right - left, bottom - top) == pytest.approx((0.4, 0.4), abs=0.2)
        assert found["scores"][0][0] > 0.5
        image = np.asarray(inputs["image"][0]).max(axis=2)
        lit = np.argwhere(image >= 150) / len(image)
        assert (top, left) == pytest.approx(tuple(lit.min(axis=0)), abs=0.15)
    finally:
        assert cli("down").returncode == 0
