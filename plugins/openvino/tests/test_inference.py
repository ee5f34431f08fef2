"""Calls side by side and alone, deadlines, files that do not load, and what others wrote."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openvino as ov
import pytest
from mlserve_openvino.inference import widths
from openvino import opset13

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.backend import Runner, RunsOn
from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, InvalidInput, ModelLoadFailed, PluginError
from mlserve.load_options import LoadOptions
from mlserve.testing.images import noise, saved
from mlserve.testing.processes import launched, wait_until

pytestmark = pytest.mark.framework


def raw(folder: Path, nodes: dict[str, Any], inputs: list[Any]) -> Artifact:
    """An IR with these outputs, as somebody else would have written it."""
    (folder / "1").mkdir(parents=True)
    for name, node in nodes.items():
        node.output(0).set_names({name})
    model = ov.Model([opset13.result(node) for node in nodes.values()], inputs, "theirs")
    ov.save_model(model, folder / "1" / "theirs.xml", compress_to_fp16=False)
    return Artifact.open(folder, "theirs", 1)


def named_input(shape: list[int], name: str, kind: ov.Type = ov.Type.f32) -> Any:
    node = opset13.parameter(ov.PartialShape(shape), kind, name=name)
    node.output(0).set_names({name})
    return node


def load(artifact: Artifact, **options: Any) -> Runner:
    return plugins.backend("openvino").load(artifact, LoadOptions(**options))


def test_a_model_that_keeps_a_state_answers_each_call_from_the_same_one(tmp_path: Path) -> None:
    x = named_input([-1], "x")
    kept = opset13.read_value(np.zeros(1, np.float32), "kept", ov.Type.f32, ov.PartialShape([1]))
    total = opset13.reduce_sum(x, np.array([0]), keep_dims=True)
    y = opset13.add(x, kept)
    y.output(0).set_names({"y"})
    assigned = opset13.assign(opset13.add(kept, total), "kept")
    (tmp_path / "1").mkdir()
    model = ov.Model([opset13.result(y)], [assigned], [x], "theirs")
    ov.save_model(model, tmp_path / "1" / "theirs.xml", compress_to_fp16=False)
    runner = load(Artifact.open(tmp_path, "theirs", 1))
    (signature,) = runner.signatures

    asked = {"x": np.ones(2, np.float32)}
    answers = [runner.run(signature, asked)["y"].tolist() for _ in range(3)]

    assert answers == [[1, 1]] * 3


def images(count: int) -> dict[str, Any]:
    return {"image": np.array([saved(noise(20 + at, 30)) for at in range(count)], dtype=object)}


def test_widths_go_from_all_threads_to_one() -> None:
    assert [widths(threads) for threads in (1, 2, 4, 8, 16)] == [
        [1],
        [2, 1],
        [4, 1],
        [8, 2, 1],
        [16, 4, 1],
    ]


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 4}, {"instances": 2}])
def test_a_call_gives_the_same_answer_at_every_width(
    colours_artifact: Artifact, options: dict[str, int]
) -> None:
    runner: Any = load(colours_artifact, **options)
    answers = []
    for threads in (0, 1, 2, 4):
        runner.limit_threads(threads)
        answers.append(runner.run("ranking", images(5))["scores"])
    assert all((each == answers[0]).all() for each in answers)


def test_an_image_has_the_same_scores_in_any_batch(colours_artifact: Artifact) -> None:
    runner = load(colours_artifact, threads=4)
    batch = images(7)
    together = runner.run("ranking", batch)["scores"]
    for at in range(7):
        alone = runner.run("ranking", {"image": batch["image"][at : at + 1]})["scores"]
        assert (alone[0] == together[at]).all()


def test_calls_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    x = named_input([-1, 2], "x")
    runner: Any = load(raw(tmp_path, {"y": opset13.multiply(x, np.float32(3))}, [x]), threads=4)

    def ask(at: int) -> bool:
        runner.limit_threads(1 + at % 4)
        sent = np.full((1 + at % 5, 2), at, np.float32)
        return bool((runner.run("serving_default", {"x": sent})["y"] == 3 * sent).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(200)))


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Several seconds of matrix products, for inputs of 16,384 rows."""
    x = node = named_input([-1, 512], "x")
    weights = opset13.constant(np.random.default_rng(0).random((512, 512), np.float32) / 512)
    for _ in range(400):
        node = opset13.tanh(opset13.matmul(node, weights, False, False))
    return raw(tmp_path_factory.mktemp("slow") / "m", {"y": node}, [x])


LONG, SHORT = ({"x": np.ones((rows, 512), np.float32)} for rows in (16384, 2))


def test_a_run_ends_at_its_deadline_and_the_next_one_answers(slow: Artifact) -> None:
    runner = load(slow)
    with pytest.raises(DeadlineExceeded, match="running the model"):
        runner.run("serving_default", LONG, Deadline.after(0.2))
    assert runner.run("serving_default", SHORT, Deadline.after(60))["y"].shape == (2, 512)


def test_one_call_is_read_while_another_has_the_only_thread(slow: Artifact) -> None:
    asked = {"x": np.ones((1024, 512), np.float32)}  # a second or more of work

    def running() -> int:
        shown = httpx.get(f"http://{server.rest}/v2", timeout=30).json()["parameters"]
        return int(shown["running"])

    with launched("openvino", slow, "--threads", "1") as server, server.client() as client:
        server.wait_ready()
        with ThreadPoolExecutor(3) as threads:
            calls = [threads.submit(client.infer, asked, timeout=120) for _ in range(3)]
            wait_until(lambda: running() == 2)
            answers = [call.result()["y"] for call in calls]
    assert all((answer == answers[0]).all() for answer in answers)


def test_a_call_that_finds_no_free_instance_waits_no_longer_than_its_deadline(
    slow: Artifact,
) -> None:
    runner: Any = load(slow, instances=1)
    (compiled,) = runner._inference.all
    assert compiled._free.acquire(blocking=False)  # as a call that runs does
    with pytest.raises(DeadlineExceeded, match="waiting for an instance of the model"):
        runner.run("serving_default", SHORT, Deadline.after(0.05))
    compiled._free.release()
    assert runner.run("serving_default", SHORT, Deadline.after(60))["y"].shape == (2, 512)


def test_an_ir_without_a_manifest_is_served_in_fp32(tmp_path: Path) -> None:
    x, ids = named_input([-1, 2], "x"), named_input([-1], "ids", ov.Type.i64)
    artifact = raw(
        tmp_path, {"y": opset13.multiply(x, np.float32(2)), "same": opset13.abs(ids)}, [x, ids]
    )
    runner: Any = load(artifact)
    (signature,) = runner.signatures.values()
    assert [str(spec) for spec in signature.inputs] == ["x: float32[?,2]", "ids: int64[?]"]
    answer = runner.run("serving_default", {"x": np.ones((3, 2), np.float32), "ids": np.arange(3)})
    assert (answer["y"] == 2).all()
    assert answer["same"].tolist() == [0, 1, 2]
    assert runner.runs_on == RunsOn(runner.runs_on.runtime, "fp32", "CPU")


def test_sizes_that_do_not_fit_together_are_the_callers_mistake(tmp_path: Path) -> None:
    x, z = named_input([-1, -1], "x"), named_input([-1, -1], "z")
    runner = load(raw(tmp_path, {"y": opset13.matmul(x, z, False, False)}, [x, z]))
    with pytest.raises(InvalidInput, match="the model refuses the input"):
        runner.run(
            "serving_default", {"x": np.ones((2, 3), np.float32), "z": np.ones((4, 5), np.float32)}
        )


def test_text_is_refused_with_its_name(tmp_path: Path) -> None:
    text = named_input([-1], "text", ov.Type.string)
    artifact = raw(tmp_path, {"y": opset13.shape_of(text)}, [text])
    with pytest.raises(ModelLoadFailed, match=r"text string\[\?\] is not of a type"):
        load(artifact)


@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_weights_that_are_not_whole_do_not_load(tmp_path: Path, damage: str) -> None:
    x = named_input([-1, 64], "x")
    weights = np.random.default_rng(0).random((64, 64), np.float32)
    artifact = raw(tmp_path, {"y": opset13.matmul(x, weights, False, False)}, [x])
    file = artifact.path / "theirs.bin"
    content = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(ModelLoadFailed, match=r"cannot load .*theirs\.xml: .*weights.* bin file"):
        load(artifact)


def test_a_device_that_is_not_there_is_named_with_those_that_are(
    colours_artifact: Artifact,
) -> None:
    with pytest.raises(PluginError, match=r"no device 'GPU.7' for OpenVINO \(there are: CPU"):
        load(colours_artifact, device="GPU.7")
    assert load(colours_artifact, device="cpu").signatures


def test_nothing_is_written_to_the_home_folder(tmp_path: Path) -> None:
    """OpenVINO and NNCF keep an id in ~/intel and send events, unless they are kept from it."""
    code = "import mlserve_openvino, openvino, nncf; print(openvino.get_version())"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"HOME": str(tmp_path), "PATH": ""},
        check=True,
        timeout=120,
        capture_output=True,
    )
    assert not (tmp_path / "intel").exists()


@pytest.mark.parametrize("kind", [ov.Type.i64, ov.Type.u32, ov.Type.u64])
def test_whole_numbers_that_openvino_would_cut_are_refused(kind: ov.Type, tmp_path: Path) -> None:
    """It computes them in int32: 2**53 + 1 would come back as 1."""
    x = named_input([-1], "x", kind)
    runner = load(
        raw(
            tmp_path / "m",
            {"y": opset13.gather(x, opset13.constant([1, 0]), opset13.constant(0))},
            [x],
        )
    )
    kept = np.array([1, 2**31 - 1], dtype=kind.to_dtype())
    assert runner.run("serving_default", {"x": kept})["y"].tolist() == [2**31 - 1, 1]
    for number in (2**31, 2**32 - 1):
        wrong = np.array([3, number], dtype=kind.to_dtype())
        with pytest.raises(InvalidInput, match=f"'x' has {number} at \\[1\\]") as refused:
            runner.run("serving_default", {"x": wrong})
        assert "another backend" in (refused.value.hint or "")


def test_numbers_beyond_float32_are_refused_for_float64(tmp_path: Path) -> None:
    x = named_input([-1], "x", ov.Type.f64)
    doubled = opset13.multiply(x, opset13.constant(np.array([2.0])))
    runner = load(raw(tmp_path / "m", {"y": doubled}, [x]))
    assert runner.run("serving_default", {"x": np.array([0.5])})["y"].tolist() == [1.0]
    for number in (1e300, np.inf):  # which would be 3.4e38
        with pytest.raises(InvalidInput, match="computes float64 in float32"):
            runner.run("serving_default", {"x": np.array([0.5, number])})


def test_a_scalar_that_cannot_be_written_to_is_taken(tmp_path: Path) -> None:
    """As one is that came as raw bytes."""
    x = named_input([], "x")
    doubled = opset13.multiply(x, opset13.constant(np.float32(2)))
    runner = load(raw(tmp_path / "m", {"y": doubled}, [x]))
    value = np.frombuffer(np.float32(1.5).tobytes(), np.float32).reshape(())
    assert runner.run("serving_default", {"x": value})["y"] == 3.0
