"""A user's own script: train, export, up, ask, down; and files that are refused, by the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torch import nn

from tests.harness.command import FREE_PORTS, Command

pytestmark = pytest.mark.framework

ROOT = Path(__file__).resolve().parents[3]


def drawn_rectangle() -> Any:
    """One picture of 32x32 with a rectangle from (4, 8) to (16, 20)."""
    picture = np.zeros((32, 32), np.float32)
    picture[8:20, 4:16] = 1
    return picture.tolist()


def test_a_detector_is_trained_exported_served_and_asked(cli: Command, tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "examples/torch_detector.py")]
    said = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.startswith("shapes right ")
    done = cli("export", "--model", "sketches", "--weights", "build/examples/sketches.pt2")
    assert done.returncode == 0, done.stderr
    assert "boxes: float32[?,4], scores: float32[?,2], labels: int64[?]" in done.stderr
    options = ("--wait", 60, "--device", "cpu", "--threads", 1)
    up = cli("up", "--model", "sketches", *FREE_PORTS, *options)
    assert up.returncode == 0, up.stderr
    (server,) = cli.ps()
    url = f"{server['rest']}/v1/models/sketches:predict"
    picture = drawn_rectangle()
    answer = httpx.post(url, json={"instances": [picture, picture]}, timeout=20)
    first, second = answer.json()["predictions"]
    assert first == second
    assert first["boxes"] == pytest.approx([4 / 32, 8 / 32, 16 / 32, 20 / 32], abs=0.08)
    assert (first["labels"], first["scores"][0] > 0.9) == (0, True)
    for body, said in [
        ({"instances": [[1, 2, 3]]}, "pictures"),
        ({"inputs": {"picture": [picture]}}, "picture"),
        ({"instances": [[["a"] * 32] * 32]}, "pictures"),
        ({"instances": [[*picture[1:], [0.5]]]}, ""),
    ]:
        refused = httpx.post(url, json=body, timeout=20)
        assert refused.status_code == 400
        assert said in refused.json()["error"]
    assert httpx.post(url, json={"instances": [picture]}, timeout=20).status_code == 200
    asked = ("predict", "--input", "pictures=@build/examples/sketch.npy", "--output", "json")
    answer = cli(*asked, "--endpoint", server["grpc"])
    assert answer.returncode == 0, answer.stderr
    assert set(answer.json()["outputs"]) == {"boxes", "scores", "labels"}
    assert cli("down", "--all").returncode == 0


def test_weights_alone_are_refused_with_the_two_lines(cli: Command, tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "weights.pth")
    done = cli("export", "--model", "m", "--weights", "weights.pth")
    assert done.returncode == 4
    assert "weights.pth holds weights alone, a state dict, without the model" in done.stderr
    assert "torch.export.save(program" in done.stderr
    assert not list((tmp_path / "home").rglob("mlserve.json"))


def test_a_device_that_is_not_there_is_named_and_no_server_is_left(
    cli: Command, tmp_path: Path
) -> None:
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(nn.Linear(3, 2), (torch.rand(2, 3),), dynamic_shapes=sizes)
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    torch.export.save(program, version / "model.pt2")
    served = ("--backend", "torch", "--model", "m", "--path", version.parent)
    up = cli("up", *served, *FREE_PORTS, "--wait", "60", "--device", "cuda:99")
    assert up.returncode == 3, up.stderr
    assert "there is no device 'cuda:99' (there are: cpu" in up.stderr
    assert cli.ps() == []
