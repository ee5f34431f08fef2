"""`mlserve compare` called wrongly, and what the command costs before it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlserve.artifact import MANIFEST_NAME
from mlserve.errors import ExitCode
from mlserve.preprocessing import VERSION_1

pytestmark = pytest.mark.server


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["echo@1", "PHOTOS"], "1 of at least 2 targets given"),
        (["echo@1", "echo@1"], "no images and no table are given"),
        (["echo@1", "onnx", "PHOTOS"], "'onnx' is not a file, a folder, an endpoint"),
        (["echo@1", "echo@x", "PHOTOS"], "'echo@x' does not name a version: 'x' is not a number"),
        (["echo@1", "echo@9", "PHOTOS"], "m has no version 9 (there: 1)"),
        (["echo@1", "host:port", "PHOTOS"], "'host:port' is not an endpoint"),
        (["echo@1", "echo@1", "no.jpg"], "'no.jpg' is not a file, a folder"),
        (["echo@1", "echo@1", "PHOTOS", *["--model=m"] * 3], "3 models are named for 2 targets"),
        (["echo@1", "echo@1", "PHOTOS", "--tolerance", "nan"], "tolerance must be a number"),
        (["echo@1", "echo@1", "PHOTOS", "--timeout", "0"], "timeout must be a positive"),
        (["echo@1", "echo@1", "PHOTOS", "--report", "no/where.html"], "its folder does not exist"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(
    cli: Any, export: Any, photos: Path, arguments: list[str], message: str
) -> None:
    export(1)
    words = [str(photos) if word == "PHOTOS" else word for word in arguments]

    done = cli("compare", *words, "--output", "json")

    assert done.returncode == ExitCode.USAGE
    error = json.loads(done.stderr)["error"]
    assert message in error["message"]
    assert error["hint"]


def test_a_comparison_says_in_what_the_pipelines_differ(
    cli: Any, export: Any, photos: Path
) -> None:
    export(1)
    manifest = export(2) / "2" / MANIFEST_NAME
    written = json.loads(manifest.read_text())
    steps = replace(VERSION_1, mean=(0.5, 0.5, 0.5)).to_json()
    written["pipeline"] |= {"exif": "apply", "version": 3, "preprocessing": steps}
    manifest.write_text(json.dumps(written))

    done = cli("compare", "echo@1", "echo@2", photos, "--runs", "1")

    said = "only echo@2 applies the EXIF orientation, so rotated photos differ"
    assert said in done.stderr.splitlines(), done.stderr
    assert "echo@2 and echo@1 were exported with different options about pixels" in done.stderr


def test_the_command_is_light_until_it_runs() -> None:
    code = (
        "import sys; from mlserve.cli.app import app\n"
        "try: app(['compare', '--help'])\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "TARGET TARGET... FILE..." in done.stdout
    assert not {"numpy", "psutil", "httpx", "grpc"} & set(done.stderr.split())
