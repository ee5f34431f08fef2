"""A network in fp32, bf16 and int8: what it computes in, and how far its scores are apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest
from onnx import helper, numpy_helper

from mlserve import plugins
from mlserve.artifact import MANIFEST_NAME, Artifact
from mlserve.backend import Quantization, Runner, runs_on
from mlserve.errors import ExportError
from mlserve.export import manifest_of
from mlserve.load_options import LoadOptions
from mlserve.precision import Precision
from mlserve.sources import Classifier
from mlserve.testing.colours import colour_classifier
from mlserve.testing.images import noise, saved

pytestmark = pytest.mark.framework

IMAGES = [saved(noise(20 + at, 30)) for at in range(16)]
CALIBRATION = [
    {"images": np.random.default_rng(at).random((1, 8, 8, 3), np.float32)} for at in range(32)
]


@pytest.fixture(scope="module")
def network(onnx_file: Callable[..., Path]) -> Classifier:
    """Two convolutions and their mean, with seeded weights."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((16, 3, 3, 3)).astype(np.float32),
        "w2": rng.standard_normal((3, 16, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        for name, array in weights.items()
    ]
    nodes += [
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "w1"], ["c1"]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"]),
        helper.make_node("ReduceMean", ["c2"], ["scores"], axes=[2, 3], keepdims=0),
    ]
    return colour_classifier(onnx_file(*nodes), framework="onnx")


def exported_at(model: Classifier, quantization: Quantization, base_path: Path) -> Artifact:
    folder = base_path / "1"
    folder.mkdir(parents=True)
    signatures = plugins.backend("openvino").export_at(model, folder, quantization)
    manifest = manifest_of(model, "openvino", signatures)
    replace(manifest, precision=quantization.precision).write(folder, model.labels)
    return Artifact.open(base_path, model.name, 1)


@pytest.fixture(scope="module")
def artifacts(
    network: Classifier, tmp_path_factory: pytest.TempPathFactory
) -> dict[Precision, Artifact]:
    root = tmp_path_factory.mktemp("precisions")
    return {
        precision: exported_at(network, Quantization(precision, CALIBRATION), root / precision)
        for precision in plugins.backend("openvino").precisions
    }


@pytest.fixture(scope="module")
def runners(artifacts: dict[Precision, Artifact]) -> dict[Precision, Runner]:
    backend = plugins.backend("openvino")
    return {name: backend.load(artifact, LoadOptions()) for name, artifact in artifacts.items()}


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("bf16", 0.05), ("int8", 0.1)])
def test_scores_are_near_those_of_onnx_runtime_and_labels_equal(
    runners: dict[Precision, Runner],
    network: Classifier,
    tmp_path: Path,
    precision: str,
    most: float,
) -> None:
    backend = plugins.backend("onnxruntime")
    from mlserve.testing.artifacts import exported

    reference = backend.load(exported("onnxruntime", network, tmp_path / "m"), LoadOptions())
    inputs = {"image": np.array(IMAGES, dtype=object)}
    theirs = reference.run("ranking", inputs)
    ours = runners[Precision(precision)].run("ranking", inputs)
    rows = np.arange(len(IMAGES))[:, None]
    scores = [np.empty_like(each["scores"]) for each in (theirs, ours)]
    for into, each in zip(scores, (theirs, ours), strict=True):
        into[rows, each["indices"]] = each["scores"]
    assert np.abs(scores[0] - scores[1]).max() < most
    sure = scores[0].max(axis=1) - np.sort(scores[0], axis=1)[:, -2] > 2 * most
    assert sure.any()
    assert (theirs["labels"][sure, 0] == ours["labels"][sure, 0]).all()


def test_each_says_what_it_computes_in(
    runners: dict[Precision, Runner], artifacts: dict[Precision, Artifact]
) -> None:
    for precision, runner in runners.items():
        found = runs_on(runner, "openvino", artifacts[precision].manifest)
        assert found.precision == precision
        assert found.device == "CPU"
        assert found.runtime == f"OpenVINO {ov.get_version().partition('-')[0]}"


@pytest.mark.parametrize(
    ("precision", "used"), [("fp32", "f32"), ("bf16", "bf16"), ("int8", "f32")]
)
def test_the_precision_is_set_and_not_left_to_openvino(
    runners: dict[Precision, Runner], precision: str, used: str
) -> None:
    runner: Any = runners[Precision(precision)]
    for compiled in runner._forward._inference.all:
        hint = compiled.model.get_property("INFERENCE_PRECISION_HINT")
        assert hint.get_type_name() == used


def test_int8_is_static_with_a_scale_for_each_channel_of_the_weights(
    artifacts: dict[Precision, Artifact],
) -> None:
    model = ov.Core().read_model(artifacts[Precision.INT8].path / "model.xml")
    kinds = [op.get_type_name() for op in model.get_ops()]
    assert "FakeQuantize" in kinds
    assert not any("Dynamic" in kind for kind in kinds)
    fakes = [op for op in model.get_ops() if op.get_type_name() == "FakeQuantize"]
    constants = [op for op in model.get_ops() if op.get_element_type() == ov.Type.i8]
    assert sorted(constant.shape[0] for constant in constants) == [3, 16]
    assert all(
        np.abs(constant.data).max() <= 64 for constant in constants
    )  # 7 bits: see quantizing
    scales = [
        op.input_value(1).get_node().shape
        for op in model.get_ops()
        if op.get_type_name() == "Multiply" and len(op.shape) == 4 and op.shape[1] in (3, 16)
    ]
    assert fakes
    assert any(tuple(shape) == (16, 1, 1, 1) for shape in scales)


def test_int8_without_calibration_says_what_to_give(network: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="int8 needs inputs") as raised:
        exported_at(network, Quantization(Precision.INT8), tmp_path)
    assert "--calibration" in str(raised.value.hint)


def test_a_precision_that_it_does_not_have_is_refused(network: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not export in fp16"):
        plugins.backend("openvino").export_at(network, tmp_path, Quantization(Precision.FP16))


def test_calibration_inputs_of_another_model_are_refused(
    network: Classifier, tmp_path: Path
) -> None:
    wrong = [{"images": np.zeros((1, 5, 5, 7), np.float32)}]
    with pytest.raises(ExportError, match="NNCF cannot quantise colours"):
        exported_at(network, Quantization(Precision.INT8, wrong), tmp_path)


def test_nothing_is_printed(
    network: Classifier, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    exported_at(network, Quantization(Precision.INT8, CALIBRATION), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_with_labels_the_right_answers_are_kept(network: Classifier, tmp_path: Path) -> None:
    """The labels are those that fp32 gives: all of them are right, and int8 may lose 1 %."""
    session = onnxruntime.InferenceSession(onnx.load(str(network.forward)).SerializeToString())
    expected = [
        int(session.run(None, {"pixels": each["images"]})[0].argmax()) for each in CALIBRATION
    ]
    quantization = Quantization(Precision.INT8, CALIBRATION, expected)
    artifact = exported_at(network, quantization, tmp_path)
    model = ov.Core().read_model(artifact.path / "model.xml")
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    right = [
        int(compiled(each["images"])[0].argmax()) == wanted
        for each, wanted in zip(CALIBRATION, expected, strict=True)
    ]
    assert np.mean(right) >= 0.99
    assert (artifact.path / MANIFEST_NAME).is_file()
