"""Any ONNX file served as it is: signatures, errors, providers, instances and deadlines."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mlserve_onnxruntime.backend import OnnxRuntimeBackend
from mlserve_onnxruntime.providers import installed, providers_for
from mlserve_onnxruntime.sessions import Sessions
from onnx import TensorProto, helper, numpy_helper

from mlserve.artifact import Artifact
from mlserve.backend import Runner
from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, InvalidInput, ModelLoadFailed, PluginError, UsageError
from mlserve.launch.launchers import launcher_for
from mlserve.load_options import LoadOptions
from mlserve.served_model import ServedModel
from mlserve.serving import Serving
from mlserve.settings import AUTO, EMBEDDED
from mlserve.testing.images import plain

pytestmark = pytest.mark.framework

Save = Callable[..., Runner]


def write(folder: Path, graph: Any) -> Artifact:
    (folder / "1").mkdir(parents=True, exist_ok=True)
    opset = helper.make_operatorsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.save(model, str(folder / "1" / "any-name.onnx"))
    return Artifact.open(folder, "m", 1)


def identity(dtype: int, shape: Any = ("N",)) -> Any:
    x, y = (helper.make_tensor_value_info(name, dtype, shape) for name in "xy")
    return helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", [x], [y])


def endless() -> Any:
    """A loop that goes on for longer than any test: `seconds` is only its start value."""
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, [1])
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "state"], ["next"]),
            helper.make_node("Identity", ["go"], ["again"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            state,
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1]),
        ],
    )
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    loop = helper.make_node("Loop", ["times", "yes", "x"], ["y"], body=body)
    constants = [
        numpy_helper.from_array(np.array(2**62), "times"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    return helper.make_graph([loop], "endless", [x], [y], constants)


def loaded(artifact: Artifact, **options: Any) -> Runner:
    return OnnxRuntimeBackend().load(artifact, LoadOptions(**options))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (TensorProto.FLOAT, np.array([1.5], np.float32)),
        (TensorProto.DOUBLE, np.array([1.5])),
        (TensorProto.FLOAT16, np.array([1.5], np.float16)),
        *(
            (getattr(TensorProto, name.upper()), np.array([7], name))
            for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
        ),
        (TensorProto.BOOL, np.array([True, False])),
        (TensorProto.STRING, np.array([b"one", "ä\0".encode(), b""], dtype=object)),
    ],
    ids=str,
)
def test_every_type_crosses_unchanged(dtype: int, value: Any, tmp_path: Path) -> None:
    runner = loaded(write(tmp_path, identity(dtype)))
    (signature,) = runner.signatures.values()
    assert signature.name == "serving_default"
    assert signature.inputs[0].shape == (None,)
    received = runner.run("serving_default", {"x": value})["y"]
    assert received.dtype == value.dtype
    assert received.tolist() == value.tolist()


def test_a_type_that_cannot_cross_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"input x bfloat16\[N\]"):
        loaded(write(tmp_path, identity(TensorProto.BFLOAT16)))


def test_an_unknown_rank_takes_any_shape(tmp_path: Path) -> None:
    runner = loaded(write(tmp_path, identity(TensorProto.FLOAT, None)))
    assert runner.signatures["serving_default"].inputs[0].shape is None
    value = np.ones((2, 3), np.float32)
    assert runner.run("serving_default", {"x": value})["y"].shape == (2, 3)


def test_a_refusal_is_one_plain_line(tmp_path: Path) -> None:
    runner = loaded(write(tmp_path, identity(TensorProto.FLOAT, [2, 3])))
    with pytest.raises(InvalidInput) as refused:
        runner.run("serving_default", {"x": np.ones((2, 4), np.float32)})
    assert "index: 1 Got: 4 Expected: 3" in refused.value.message
    assert "ONNXRuntimeError" not in refused.value.message
    assert "\n" not in refused.value.message


def test_text_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    runner = loaded(write(tmp_path, identity(TensorProto.STRING)))
    with pytest.raises(InvalidInput, match="not UTF-8 text"):
        runner.run("serving_default", {"x": np.array([b"\xff"], dtype=object)})


def test_a_run_ends_when_its_deadline_passes(tmp_path: Path) -> None:
    runner = loaded(write(tmp_path, endless()), threads=1)
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="running the model"):
        runner.run("serving_default", {"x": np.ones(1, np.float32)}, Deadline.after(0.3))
    assert time.monotonic() - start < 10


def test_a_call_waits_for_a_session_no_longer_than_its_deadline(tmp_path: Path) -> None:
    runner = loaded(write(tmp_path, endless()), threads=1, instances=1)
    sent = {"x": np.ones(1, np.float32)}
    errors: list[Exception] = []

    def run(seconds: float) -> None:
        try:
            runner.run("serving_default", sent, Deadline.after(seconds))
        except DeadlineExceeded as error:
            errors.append(error)

    first = threading.Thread(target=run, args=(2.0,))
    first.start()
    sessions = runner._sessions  # type: ignore[attr-defined]
    while sessions._free.qsize():
        assert first.is_alive()
    run(0.05)
    assert "waiting for a session" in str(errors[0])
    first.join()
    assert "running the model" in str(errors[1])


def test_instances_share_the_threads(colours_artifact: Artifact) -> None:
    file = colours_artifact.path / "model.onnx"
    sessions = Sessions(file, LoadOptions(threads=5, instances=2))
    threads = [session.get_session_options().intra_op_num_threads for session in sessions.all]
    assert threads == [2, 2]
    image = np.array([plain("blue")], dtype=object)
    runner = loaded(colours_artifact, threads=1, instances=3)
    assert runner.run("serving_default", {"image": image})["output_0"].tolist() == [b"blue"]


def test_the_cpu_is_always_there() -> None:
    assert "cpu" in installed()
    assert list(providers_for("auto")) == list(providers_for(None)) == list(installed().values())
    assert list(providers_for("cpu")) == ["CPUExecutionProvider"]


def test_a_provider_that_is_not_installed_lists_those_that_are(colours_artifact: Artifact) -> None:
    with pytest.raises(PluginError, match=r"'abacus' is not installed \(installed: .*cpu"):
        loaded(colours_artifact, provider="abacus")


def test_up_refuses_an_option_that_the_backend_does_not_have(tmp_path: Path) -> None:
    class Plain(OnnxRuntimeBackend):
        name = "plain"
        load_options = ()

    serving = Serving((ServedModel("plain", "m", tmp_path, options=LoadOptions(instances=2)),))
    with pytest.raises(UsageError, match="'plain' has no --instances"):
        launcher_for([Plain()], serving, AUTO)
    model = replace(serving.only, backend="onnxruntime")
    assert launcher_for([OnnxRuntimeBackend()], Serving((model,)), AUTO) == EMBEDDED


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, r"must hold one file of a model for onnxruntime, and it has no \*\.onnx"),
        ({"model.onnx": b"damaged"}, "cannot load"),
        ({"a.onnx": b"", "b.onnx": b""}, "it has several: a.onnx, b.onnx"),
    ],
)
def test_a_folder_without_a_model_is_named(
    tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    (tmp_path / "1").mkdir()
    for name, data in files.items():
        (tmp_path / "1" / name).write_bytes(data)
    with pytest.raises(ModelLoadFailed, match=said) as failed:
        loaded(Artifact.open(tmp_path, "m", 1))
    assert "\n" not in failed.value.message


_SERVE = """
import sys
from pathlib import Path
import numpy as np
from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.load_options import LoadOptions
import mlserve.server.app
base, image = map(Path, sys.argv[1:])
runner = plugins.backend("onnxruntime").load(Artifact.open(base, "colours", 1), LoadOptions())
answer = runner.run("serving_default", {"image": np.array([image.read_bytes()], dtype=object)})
print(answer["output_0"][0].decode())
print(*sys.modules)
"""


@pytest.mark.server
def test_serving_imports_no_tensorflow_and_no_onnx(
    colours_artifact: Artifact, tmp_path: Path
) -> None:
    image = tmp_path / "green.jpg"
    image.write_bytes(plain("green"))
    done = subprocess.run(
        [sys.executable, "-c", _SERVE, str(colours_artifact.path.parent), str(image)],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    label, modules = done.stdout.splitlines()
    assert label == "green"
    loaded_packages = {name.partition(".")[0] for name in modules.split()}
    assert not loaded_packages & {"tensorflow", "keras", "onnx", "tf2onnx", "tinygrad"}
