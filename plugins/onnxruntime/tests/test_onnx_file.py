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
from mlserve.contract import UNIT
from mlserve.errors import ExportError
from mlserve.export import export, no_progress
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Activation
from mlserve.sources import Classifier, How, Kind, ModelRequest
from mlserve.testing.images import saved

pytestmark = pytest.mark.framework

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
        axes: Sequence[int] | None = None,
        **options: Any,
    ) -> ModelRequest:
        names = ["pixels", "more"][:inputs]
        axes = axes or ([2, 3] if len(shape) == 4 and shape[1] == 3 else [1, 2])
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
        return ModelRequest("own", str(path), names_file, input_size, UNIT, **options)

    return make


def opened(request: ModelRequest) -> Classifier:
    from mlserve_onnxruntime.backend import OnnxSource

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
        "golden",
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
        opened(build(**given, kind=Kind.IMAGE_CLASSIFIER))
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


@pytest.mark.parametrize(
    ("layout", "axes"), [("nchw", [2, 3]), ("nhwc", [1, 2])], ids=["nchw", "nhwc"]
)
def test_open_axes_are_filled_by_input_size_and_by_the_layout_that_runs(
    build: Build, tmp_path: Path, layout: str, axes: list[int]
) -> None:
    """Both layouts run on a mean over two axes, unless the weights fit only one of them."""
    request = build(("N", "A", "B", "C"), axes=axes, input_size=8)
    artifact = export(request, "onnxruntime", store=tmp_path / "store")
    assert artifact.manifest is not None
    assert (artifact.manifest.pipeline.height, artifact.manifest.pipeline.width) == (8, 8)
    facts = artifact.manifest.facts
    assert (facts["size"].how, facts["layout"].how) == (How.GIVEN, How.FOUND)
    assert f"it runs with {layout.upper()}" in facts["layout"].why
    runner = OnnxRuntimeBackend().load(artifact, LoadOptions(threads=1))
    blue = saved(Image.new("RGB", (30, 20), "blue"), "PNG")
    answer = runner.run("top_k", {"image": np.array([blue, blue], dtype=object)})
    assert answer["labels"][:, 0].tolist() == [b"blue", b"blue"]


def test_a_layout_that_no_run_tells_is_asked_for(build: Build) -> None:
    ambiguous = {"shape": ("N", "A", "B", "C"), "axes": [1, 2], "input_size": 3}
    with pytest.raises(ExportError, match="runs with either layout") as asked:
        opened(build(**ambiguous))
    assert "--layout nchw or --layout nhwc" in (asked.value.hint or "")
    assert opened(build(**ambiguous, layout="nhwc")).facts["layout"].how is How.GIVEN


def test_open_axes_without_a_size_ask_for_it(build: Build) -> None:
    with pytest.raises(ExportError, match="leaves its input size open") as asked:
        opened(build(("N", "A", "B", "C")))
    assert "--input-size" in (asked.value.hint or "")


def test_a_layout_that_does_not_fit_is_refused(build: Build) -> None:
    with pytest.raises(ExportError, match="--layout nchw does not fit"):
        opened(build(("N", 8, 8, 3), layout="nchw"))


def batch_normalized(path: Path, *, in_training: bool) -> None:
    """An ONNX classifier with a BatchNormalization that takes its statistics from the batch."""
    floats = {name: np.full(3, value, np.float32) for name, value in _NEUTRAL.items()}
    floats["weights"] = np.diag([3.0, 2.0, 1.0]).astype(np.float32)
    norm = helper.make_node(
        "BatchNormalization",
        ["pixels", "scale", "bias", "mean", "var"],
        ["normal", "new_mean", "new_var"] if in_training else ["normal"],
        training_mode=int(in_training),
    )
    nodes = [
        norm,
        helper.make_node("Relu", ["normal"], ["lit"]),
        helper.make_node("GlobalAveragePool", ["lit"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "norm",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in floats.items()],
    )
    opset = helper.make_operatorsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))


_NEUTRAL = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}


def test_a_model_whose_answers_depend_on_the_neighbours_is_refused(
    build: Build, tmp_path: Path
) -> None:
    request = build()
    batch_normalized(tmp_path / "own.onnx", in_training=True)
    with pytest.raises(ExportError, match="depends on its neighbours in the batch") as refused:
        opened(request)
    assert "inference mode" in (refused.value.hint or "")
    batch_normalized(tmp_path / "own.onnx", in_training=False)
    assert opened(request).pipeline.classes == 3


def test_an_export_of_before_there_was_a_ranking_is_served_with_one(
    build: Build, tmp_path: Path
) -> None:
    made = export(build(), "onnxruntime", store=tmp_path / "store")
    manifest = made.path / "mlserve.json"
    data = json.loads(manifest.read_text())
    data["signatures"] = [item for item in data["signatures"] if item["name"] != "ranking"]
    manifest.write_text(json.dumps(data))
    old = Artifact.open(made.path.parent, made.model, made.version)
    runner = OnnxRuntimeBackend().load(old, LoadOptions(threads=1))
    image = saved(Image.new("RGB", (30, 20), "blue"), "PNG")
    answer = runner.run("ranking", {"image": np.array([image], dtype=object)})
    assert answer["labels"].tolist() == [[b"blue", b"red", b"green"]]
