"""A user's own ONNX classifier: its interface is read from the file, its output probed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mlserve_onnxruntime.backend import OnnxRuntimeBackend
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from mlserve.artifact import Artifact
from mlserve.backend import LoadOptions
from mlserve.errors import ExportError
from mlserve.export import export, no_progress
from mlserve.pipeline import Activation
from mlserve.sources import Classifier, ModelRequest
from mlserve.testing.image_files import saved

Build = Callable[..., ModelRequest]
COLOURS = ("red", "green", "blue")


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Writes an ONNX classifier of the mean colours, and the request to export it."""

    def make(
        shape: Sequence[Any] = ("N", 8, 8, 3),
        *,
        end: str = "Identity",
        dtype: int = TensorProto.FLOAT,
        inputs: int = 1,
        labels: Sequence[str] = COLOURS,
        input_size: int | None = None,
        gain: Sequence[float] = (3.0, 3.0, 3.0),
    ) -> ModelRequest:
        names = ["pixels", "more"][:inputs]
        axes = [2, 3] if len(shape) == 4 and shape[1] == 3 else [1, 2]
        units = 1 if end == "one" else len(labels)
        channels = 4 if shape[-1] == 4 else 3
        weights = np.zeros((channels, 3), np.float32)
        np.fill_diagonal(weights, gain)
        nodes = [
            helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["floats"], ["means"], axes=axes, keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["raw"]),
            helper.make_node("Identity" if end == "one" else end, ["raw"], ["out"]),
        ]
        graph = helper.make_graph(
            nodes,
            "means",
            [helper.make_tensor_value_info(name, dtype, shape) for name in names],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [shape[0], units])],
            [numpy_helper.from_array(weights[:, :units], "weights")],
        )
        opset = helper.make_operatorsetid("", 17)
        path, names_file = tmp_path / "own.onnx", tmp_path / "labels.txt"
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
        names_file.write_text("\n".join(labels))
        return ModelRequest("own", str(path), names_file, input_size)

    return make


def opened(request: ModelRequest) -> Classifier:
    from mlserve_onnxruntime.source import OnnxSource

    assert OnnxSource().accepts(request)
    return OnnxSource().open(request, no_progress)


@pytest.mark.parametrize(
    "shape",
    [("N", 8, 6, 3), ("N", 3, 8, 6), (1, 8, 6, 3), (1, 3, 8, 6), (None, 8, 6, 3)],
    ids=str,
)
def test_either_layout_and_batch_gives_the_answer(
    build: Build, shape: tuple[Any, ...], tmp_path: Path
) -> None:
    artifact = export(build(shape), "onnxruntime", store=tmp_path / "store")
    assert artifact.manifest is not None
    assert (artifact.manifest.pipeline.height, artifact.manifest.pipeline.width) == (8, 6)
    assert sorted(path.name for path in artifact.path.iterdir()) == [
        "labels.txt",
        "mlserve.json",
        "model.onnx",
    ]
    runner = OnnxRuntimeBackend().load(artifact, LoadOptions(threads=1))
    files = [saved(Image.new("RGB", (30, 20), colour), "PNG") for colour in ("blue", "red")]
    answer = runner.run("top_k", {"image": np.array([*files, files[0]], dtype=object)})
    assert answer["labels"][:, 0].tolist() == [b"blue", b"red", b"blue"]
    weights = np.exp([3.0, 0.0, 0.0])
    np.testing.assert_allclose(answer["scores"][1], weights / weights.sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("end", "labels", "activation"),
    [
        ("Identity", COLOURS, Activation.SOFTMAX),
        ("Softmax", COLOURS, Activation.IDENTITY),
        ("one", ("good", "bad"), Activation.SIGMOID),
    ],
)
def test_the_activation_is_found_by_running_it(
    build: Build, end: str, labels: tuple[str, ...], activation: Activation
) -> None:
    assert opened(build(end=end, labels=labels)).pipeline.activation is activation


def test_an_open_size_is_asked_for(build: Build) -> None:
    with pytest.raises(ExportError, match="leaves its input size open") as refused:
        opened(build(("N", "H", "W", 3)))
    assert "--input-size" in (refused.value.hint or "")
    assert opened(build(("N", "H", "W", 3), input_size=16)).pipeline.width == 16


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"shape": ("N", 8, 3)}, r"takes pixels float\[N,8,3\], not"),
        ({"shape": ("N", 8, 8, 4)}, r"takes pixels float\[N,8,8,4\], not"),
        ({"shape": (4, 8, 8, 3)}, "takes batches of 4 only"),
        ({"dtype": TensorProto.UINT8}, r"takes pixels uint8\[N,8,8,3\], not"),
        ({"inputs": 2}, r"has 2 inputs, not one: pixels float\[N,8,8,3\], more float"),
        ({"input_size": 9}, "--input-size 9 does not fit"),
        ({"end": "Sigmoid"}, "independent probabilities"),
        ({"gain": (3.0, float("inf"), 3.0)}, "not finite"),
    ],
)
def test_what_is_no_image_classifier_is_refused(
    build: Build, given: dict[str, Any], found: str
) -> None:
    with pytest.raises(ExportError, match=found) as refused:
        opened(build(**given))
    assert "\n" not in refused.value.message


def test_a_file_that_is_no_onnx_is_refused(build: Build) -> None:
    request = build()
    Path(str(request.weights)).write_bytes(b"no protobuf message")
    with pytest.raises(ExportError, match="cannot load") as refused:
        opened(request)
    assert "\n" not in refused.value.message


def test_weights_beside_the_file_come_with_it(build: Build, tmp_path: Path) -> None:
    request = build()
    path = Path(str(request.weights))
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="own.data", size_threshold=0)
    artifact = export(request, "onnxruntime", store=tmp_path / "store")
    (tmp_path / "own.data").unlink()
    runner = OnnxRuntimeBackend().load(artifact, LoadOptions(threads=1))
    assert set(runner.signatures) == {"serving_default", "top_k", "ranking"}


def test_an_export_of_before_there_was_a_ranking_is_served_with_one(
    build: Build, tmp_path: Path
) -> None:
    made = export(build(), "onnxruntime", output=tmp_path / "store")
    manifest = made.path / "mlserve.json"
    data = json.loads(manifest.read_text())
    data["signatures"] = [item for item in data["signatures"] if item["name"] != "ranking"]
    manifest.write_text(json.dumps(data))
    old = Artifact.open(made.path.parent, made.model, made.version)
    runner = OnnxRuntimeBackend().load(old, LoadOptions(threads=1))
    image = saved(Image.new("RGB", (30, 20), "blue"), "PNG")
    answer = runner.run("ranking", {"image": np.array([image], dtype=object)})
    assert answer["labels"].tolist() == [[b"blue", b"red", b"green"]]
