"""`mlserve predict --expect` shows that pixels or labels are wrong, in the printed accuracy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.export import export
from mlserve.pixel_options import PixelOptions
from mlserve.preprocessing import Channels, ResizeMode
from mlserve.sources import ModelRequest
from mlserve.testing.processes import ServerProcess, launched

pytestmark = pytest.mark.server

COLOURS = {
    "blue": (60, 60, 200),
    "dark": (40, 40, 40),
    "light": (220, 220, 220),
    "red": (200, 60, 60),
}
TRAINED = PixelOptions(
    mode=ResizeMode.SHORTEST_EDGE, size=(16, 16), antialias=True, mean=(0.5,), std=(0.25,)
)
FAULTS = {
    "wrong mean": replace(TRAINED, mean=(0.0,)),
    "swapped channels": replace(TRAINED, channels=Channels.BGR),
    "missing crop": replace(TRAINED, size=None),
}
SHIFTED = "labels moved by one"


def _network(path: Path) -> Path:
    """Write a classifier of the mean colour of 8x8 pixels, trained on (x / 255 - 0.5) / 0.25."""
    weights = np.array([[-1, -1, 1, 2], [-1, -1, 1, -1], [2, -1, 1, -1]], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = helper.make_operatorsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
    return path


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, list[str]]]:
    """A server of the right export, as version 1, and of one for each fault."""
    folder = tmp_path_factory.mktemp("expect")
    weights = str(_network(folder / "colours.onnx"))
    labels = tuple(COLOURS)
    artifact = None
    for labelled, pixels in [
        (labels, TRAINED),
        *((labels, wrong) for wrong in FAULTS.values()),
        ((*labels[1:], labels[0]), TRAINED),
    ]:
        request = ModelRequest("colours", weights, labelled, pixels=pixels)
        artifact = export(request, "onnxruntime", store=folder / "store")
    assert artifact is not None
    with launched("onnxruntime", artifact, "--all-versions", "--threads=1") as server:
        names = ["right", *FAULTS, SHIFTED]
        for version in range(1, len(names) + 1):
            server.wait_ready(version)
        yield server, names


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of each class: its colour in the middle, another's around it."""
    folder = tmp_path_factory.mktemp("labelled")
    colours = list(COLOURS.values())
    for at, (name, colour) in enumerate(COLOURS.items()):
        (folder / name).mkdir()
        for number in range(5):
            pixels = np.empty((32, 32 + 2 * number, 3), np.uint8)
            pixels[:] = colours[(at + 1) % len(colours)]
            pixels[7:25, 7 + number : 25 + number] = colour
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("fault", ["right", *FAULTS, SHIFTED])
def test_a_fault_in_pixels_or_labels_shows(
    versions: tuple[ServerProcess, list[str]], labelled: Path, fault: str
) -> None:
    server, names = versions
    version = str(names.index(fault) + 1)
    words = ["predict", str(labelled), "--expect", "folders", "--version", version]
    done = CliRunner().invoke(
        app, [*words, "--endpoint", server.grpc, "--timeout", "30", "--output", "json"]
    )
    found = json.loads(done.stdout)

    assert done.exit_code == 0
    assert found["images"] == 20
    confused = {(item["expected"], item["answered"]): item["images"] for item in found["confusion"]}
    if fault == "right":
        assert found["accuracy"] == 1.0
        return
    assert found["accuracy"] <= 0.75
    if fault == "swapped channels":
        assert (confused["red", "blue"], confused["blue", "red"]) == (5, 5)
        assert (confused["dark", "dark"], confused["light", "light"]) == (5, 5)
    if fault == SHIFTED:
        assert found["accuracy"] == 0.0
        after = dict(zip(COLOURS, [*COLOURS][1:] + [*COLOURS][:1], strict=True))
        assert confused == {(name, after[name]): 5 for name in COLOURS}


def test_labels_are_taken_as_numbers_though_the_first_image_is_damaged(
    versions: tuple[ServerProcess, list[str]], labelled: Path, tmp_path: Path
) -> None:
    server, _ = versions
    (tmp_path / "0.png").write_bytes(b"not an image")
    (tmp_path / "1.png").write_bytes((labelled / "red" / "0.png").read_bytes())
    (tmp_path / "labels.csv").write_text("file,label\n0.png,0\n1.png,3\n")
    words = ["predict", str(tmp_path), "--expect", str(tmp_path / "labels.csv"), "--version", "1"]
    done = CliRunner().invoke(
        app, [*words, "--endpoint", server.grpc, "--timeout", "30", "--output", "json"]
    )
    found = json.loads(done.stdout)

    assert done.exit_code != 0
    assert found["confusion"] == [{"expected": "red", "answered": "red", "images": 1}]
