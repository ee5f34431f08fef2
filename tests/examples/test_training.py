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

import numpy as np
import pytest

from mlserve.testing.processes import wait_until
from tests.documents import ROOT
from tests.harness.command import Command
from tests.harness.model_server import INSTALLED, started

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]

SCRIPTS = sorted((ROOT / "examples").glob("keras_*.py"))
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


def predict(cli: Command, script: str, endpoint: str, *inputs: str) -> Any:
    """Ask as the script's last lines do, or about other inputs; return the outputs by name."""
    steps = commands(ROOT / "examples" / script)
    model = steps[2][steps[2].index("--model") + 1]
    words = ["predict", *(("--input", *inputs) if inputs else steps[3][2:])]
    answer = cli.json(*words, "--endpoint", endpoint, "--model", model)
    return answer["outputs"]


def test_models_of_tensorflow_in_one_server(made: Path, cli: Command) -> None:
    names = ("houses", "reviews")
    store = made / "home" / "data" / "models" / "tfserving"
    config = made / "models.config"
    entries = "".join(f'config {{ name: "{name}" base_path: "{store / name}" }} ' for name in names)
    config.write_text(f"model_config_list {{ {entries} }}")
    with started(INSTALLED, made / "log", f"--model_config_file={config}") as server:
        wait_until(server.is_ready, timeout=120)
        ((price,),) = predict(cli, "keras_tabular.py", server.grpc)["output_0"]
        assert 300 < price < 460, "2.5 * 120 + 8 * 4 + 0.6 * 95 = 389 thousand"
        ((good,),) = predict(cli, "keras_text.py", server.grpc)["good"]
        ((bad,),) = predict(cli, "keras_text.py", server.grpc, "text=an awful, rude place")["good"]
        assert bad < 0.5 < good


def test_the_detector_finds_the_shape(
    made: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLSERVE_HOME", str(made / "home"))
    (cli.folder / "build").symlink_to(made / "build")
    up = cli("up", "--model", "shapes", "--grpc-port", 0, "--rest-port", 0, timeout=60)
    assert up.returncode == 0, up.stderr
    assert "next: mlserve predict --input image=@image.npy" in up.stderr
    endpoint = up.stdout.split()[up.stdout.split().index("grpc") + 1]
    found = predict(cli, "keras_detector.py", endpoint)
    assert set(found) == {"boxes", "scores", "classes"}
    image = np.load(made / "build" / "examples" / "image.npy")[0].max(axis=2)
    lit = np.argwhere(image >= 150) / len(image)
    (top, left), (bottom, right) = lit.min(axis=0), lit.max(axis=0)
    assert found["boxes"][0] == pytest.approx((left, top, right, bottom), abs=0.15)
    assert found["scores"][0][0] > 0.5
    refused = cli("predict", ROOT / "examples" / "horse.jpg")
    assert refused.returncode == 2
    assert (
        "does not take image files; it takes serving_default(image: uint8[?,32,32,3])"
        in refused.stderr
    )
    assert "mlserve predict --input image=@image.npy" in refused.stderr
    assert cli("down").returncode == 0
