"""Exports in int8, fp16 and bf16: what is in the file, its answers, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mlserve_onnxruntime import providers
from mlserve_onnxruntime.backend import OnnxRuntimeBackend
from mlserve_onnxruntime.half_precision import write_half
from mlserve_onnxruntime.opening import session_options
from mlserve_onnxruntime.sessions import Sessions
from onnx import TensorProto, helper, numpy_helper

from mlserve.backend import Quantization, runs_on
from mlserve.errors import ExportError
from mlserve.load_options import LoadOptions
from mlserve.precision import Precision
from mlserve.sources import Classifier
from mlserve.testing.artifacts import exported
from mlserve.testing.colours import colour_classifier

pytestmark = pytest.mark.framework

CPU = LoadOptions(provider="cpu", instances=1)
RNG = np.random.default_rng(5)
CALIBRATION = [{"images": RNG.uniform(0, 1, (1, 8, 8, 3)).astype(np.float32)} for _ in range(12)]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """Two convolutions and a mean, with weights of very different sizes by channel."""
    weights = {
        "first": RNG.normal(0, 1, (6, 3, 3, 3)) * np.logspace(-2, 0, 6).reshape(6, 1, 1, 1),
        "second": RNG.normal(0, 1, (3, 6, 1, 1)),
    }
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "first"], ["maps"]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("Conv", ["positive", "second"], ["classes"]),
        helper.make_node("ReduceMean", ["classes"], ["scores"], axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    opset = helper.make_operatorsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
    return colour_classifier(path, framework="onnx")


def outputs(file: Path) -> Any:
    """What the file answers to the calibration images."""
    sessions = Sessions(file, CPU)
    images = np.concatenate([inputs["images"] for inputs in CALIBRATION])
    return sessions.run(["scores"], {"pixels": images}, None)[0]


def test_int8_is_static_with_a_scale_for_each_channel(network: Classifier, tmp_path: Path) -> None:
    OnnxRuntimeBackend().export_at(network, tmp_path, Quantization(Precision.INT8, CALIBRATION))

    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    operations = [node.op_type for node in graph.node]
    assert operations.count("QuantizeLinear") >= 2
    assert not {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"} & set(operations)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scales = [array.size for name, array in arrays.items() if name.startswith("first_scale")]
    assert scales == [6]
    assert arrays["first_quantized"].dtype == np.int8
    assert np.abs(arrays["first_quantized"].astype(int)).max() > 64, "all 8 bits are used"


def test_int8_answers_nearly_as_fp32_does(network: Classifier, tmp_path: Path) -> None:
    backend = OnnxRuntimeBackend()
    (tmp_path / "fp32").mkdir()
    (tmp_path / "int8").mkdir()

    backend.export(network, tmp_path / "fp32")
    backend.export_at(network, tmp_path / "int8", Quantization(Precision.INT8, CALIBRATION))

    exact, near = (outputs(tmp_path / name / "model.onnx") for name in ("fp32", "int8"))
    difference = np.abs(exact - near).max()
    assert 0 < difference < 0.02 * np.abs(exact).max()


def test_int8_without_inputs_is_refused(network: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="int8 needs inputs of colours") as refused:
        OnnxRuntimeBackend().export_at(network, tmp_path, Quantization(Precision.INT8))

    assert "--calibration" in refused.value.hint


def test_a_model_without_products_is_not_called_int8(colours: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nothing in colours can be quantised"):
        OnnxRuntimeBackend().export_at(colours, tmp_path, Quantization(Precision.INT8, CALIBRATION))


def test_inputs_of_another_model_are_refused(network: Classifier, tmp_path: Path) -> None:
    small = [{"images": np.zeros((1, 4, 4, 3), np.float32)}]

    with pytest.raises(ExportError, match="cannot quantise colours") as refused:
        OnnxRuntimeBackend().export_at(network, tmp_path, Quantization(Precision.INT8, small))

    assert "calibration inputs" in refused.value.hint


def test_products_of_bytes_do_not_saturate_without_vnni() -> None:
    options = session_options(1)

    assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_bf16_products_are_asked_for_and_never_by_default() -> None:
    key = "mlas.enable_gemm_fastmath_arm64_bfloat16"

    assert session_options(1).get_session_config_entry(key) == "0"
    assert session_options(1, Precision.INT8).get_session_config_entry(key) == "0"
    assert session_options(1, Precision.BF16).get_session_config_entry(key) == "1"


def test_fp16_has_weights_of_two_bytes_and_the_same_interface(
    network: Classifier, tmp_path: Path
) -> None:
    OnnxRuntimeBackend().export(network, tmp_path)
    exact = outputs(tmp_path / "model.onnx")

    write_half(network, tmp_path / "model.onnx")

    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    assert {tensor.data_type for tensor in graph.initializer} == {TensorProto.FLOAT16}
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    difference = np.abs(outputs(tmp_path / "model.onnx") - exact).max()
    assert 0 < difference < 0.005 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("precision", "words"), [("fp16", "does not compute in fp16 on a CPU"), ("bf16", "has neither")]
)
def test_what_no_provider_here_computes_in_is_refused(
    network: Classifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    words: str,
) -> None:
    monkeypatch.setattr(providers, "installed", lambda: {"cpu": "CPUExecutionProvider"})
    monkeypatch.setattr(providers, "_multiplies_in_bf16", lambda: False)

    with pytest.raises(ExportError, match=words):
        OnnxRuntimeBackend().export_at(network, tmp_path, Quantization(Precision(precision)))

    assert list(tmp_path.iterdir()) == []


def test_openvino_is_always_told_the_precision() -> None:
    """By itself it takes bf16 where the CPU has it."""
    names = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]

    for precision, hint in (("fp32", "f32"), ("int8", "f32"), ("bf16", "bf16")):
        (name, options), cpu = providers.configured(names, Precision(precision))
        assert (name, cpu) == tuple(names)
        assert f'"CPU": {{"INFERENCE_PRECISION_HINT": "{hint}"}}' in options["load_config"]


@pytest.mark.skipif("openvino" not in providers.installed(), reason="needs onnxruntime-openvino")
def test_openvino_computes_in_the_precision_that_it_is_told(
    network: Classifier, tmp_path: Path
) -> None:
    OnnxRuntimeBackend().export(network, tmp_path)
    feeds = {"pixels": np.concatenate([inputs["images"] for inputs in CALIBRATION])}
    exact = outputs(tmp_path / "model.onnx")

    sessions = Sessions(tmp_path / "model.onnx", LoadOptions(provider="openvino"))

    assert (sessions.runs_on.precision, sessions.runs_on.device) == ("fp32", "OPENVINO")
    np.testing.assert_allclose(sessions.run(["scores"], feeds, None)[0], exact, rtol=0, atol=1e-5)


def test_a_runner_says_what_it_runs_on(colours: Classifier, tmp_path: Path) -> None:
    artifact = exported("onnxruntime", colours, tmp_path / "colours")

    runner = OnnxRuntimeBackend().load(artifact, CPU)

    found = runs_on(runner, "onnxruntime", artifact.manifest)
    assert found.runtime.startswith("ONNX Runtime 1.")
    assert (found.precision, found.device) == ("fp32", "CPU")
    runner.close()
