"""Version folders of a running server: which are served, and how one takes over from another."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from mlserve.artifact import Manifest
from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.serving_pb2 import GetModelStatusRequest, GetModelStatusResponse
from tests.harness.echo import manifest, tensors_manifest

pytestmark = pytest.mark.server

IMAGE = np.array([b"x"], object), DType.BYTES


def label(server: Any, version: int | None = None) -> Any:
    where = "" if version is None else f"/versions/{version}"
    answer = server.post({"inputs": ["x"]}, f"/v1/models/m{where}:predict")
    return answer.json()["outputs"][0] if answer.status_code == 200 else answer.status_code


def status(server: Any, version: int) -> Any:
    answer = httpx.get(f"http://{server.rest}/v1/models/m/versions/{version}").json()
    return answer["model_version_status"][0]


def test_a_new_version_takes_over_and_no_request_is_lost(model: Any, start: Any) -> None:
    model.put(1, label="one", delay=0.02)
    server, stop = start("--threads", "4"), threading.Event()

    answers: list[list[Any]] = [[] for _ in range(4)]

    def ask(sequence: list[Any]) -> None:
        while not stop.is_set():
            sequence.append(label(server))

    def everyone_got(name: str) -> bool:
        return all(name in sequence for sequence in answers)

    with ThreadPoolExecutor(4) as clients:
        asked = [clients.submit(ask, sequence) for sequence in answers]
        wait_until(lambda: everyone_got("one"))
        for version, name in enumerate(("two", "three"), 2):
            model.put(version, label=name, delay=0.02, load_delay=0.2)
            wait_until(lambda name=name: everyone_got(name))
            wait_until(lambda version=version: server.state(version - 1) == "END")
        stop.set()
        for call in asked:
            call.result()
    for sequence in answers:
        assert set(sequence) == {"one", "two", "three"}
        order = [sequence.index(name) for name in ("one", "two", "three")]
        assert order == sorted(order)
    assert model.runs().count("close") == 2


def test_an_old_version_is_unloaded_after_its_last_request(
    model: Any, start: Any, predict_on: Any, request_of: Any
) -> None:
    model.put(1)
    server = start("--threads", "2")
    seconds = np.array([60.0], np.float32), DType.FLOAT32
    slow = predict_on(server, request_of("slow", seconds=seconds), timeout=60)
    wait_until(lambda: "slow" in model.runs())
    model.put(2, label="two")
    wait_until(lambda: server.state(1) == "UNLOADING")
    assert label(server) == "two"
    assert label(server, 1) == 404
    assert "close" not in model.runs()
    model.release()
    assert slow.result().model_spec.version.value == 1
    wait_until(lambda: server.state(1) == "END")
    assert model.runs()[-1] == "close"


def test_a_broken_new_version_leaves_the_old_one_alone(model: Any, start: Any) -> None:
    model.put(1, label="one")
    server = start()
    folder = model.put(2, fail_load="this file is damaged")
    wait_until(lambda: server.state(2) == "END")
    assert status(server, 2)["status"] == {
        "error_code": "UNAVAILABLE",
        "error_message": "this file is damaged",
    }
    assert (label(server), server.state(1)) == ("one", "AVAILABLE")
    model.put(0)
    assert server.log().count("loading version 2") == 1, "it is not tried again"
    (folder / "echo.json").write_text('{"label": "mended"}')
    wait_until(lambda: label(server) == "mended")
    wait_until(lambda: server.state(1) == "END")


def test_a_version_that_is_no_json_at_all(model: Any, start: Any) -> None:
    model.put(1)
    server = start()
    (model.base_path / "2").mkdir()
    wait_until(lambda: server.state(2) == "END")
    assert "cannot be read" in status(server, 2)["status"]["error_message"]
    (model.base_path / "3").mkdir()
    (model.base_path / "3" / "mlserve.json").write_text("{")
    wait_until(lambda: server.state(3) == "END")
    assert "mlserve.json cannot be read" in status(server, 3)["status"]["error_message"]


def test_what_a_loader_may_raise(model: Any, start: Any, channel_to: Any) -> None:
    model.put(1)
    server = start()
    model.put(2, needs="no_such_runtime")
    wait_until(lambda: server.state(2) == "END")
    assert status(server, 2)["status"] == {
        "error_code": "INTERNAL",
        "error_message": "the backend 'echo' cannot be used: "
        "ModuleNotFoundError: No module named 'no_such_runtime'",
    }
    model.put(3, load_delay="soon")
    wait_until(lambda: server.state(3) == "END")
    assert "version 3 failed to load: TypeError" in status(server, 3)["status"]["error_message"]
    assert "Traceback" in server.log()
    newest = grpc_status(channel_to(server))[0]
    assert (newest.version, newest.state, newest.status.error_code) == (3, 50, 14)
    assert "TypeError" in newest.status.error_message
    assert label(server) == "sorrel"


def grpc_status(channel: Any) -> Any:
    request = GetModelStatusRequest()
    request.model_spec.name = "m"
    method = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
    answer = method(request.SerializeToString(), timeout=20)
    return GetModelStatusResponse.FromString(answer).model_version_status


@pytest.mark.parametrize("exported", [None, tensors_manifest()], ids=["foreign", "tensors"])
def test_a_model_that_is_no_image_classifier_need_not_take_zeros(
    model: Any, start: Any, predict_on: Any, request_of: Any, exported: Manifest | None
) -> None:
    model.put(1, manifest=exported, fail_run="zeros are not for me")
    server = start()
    assert "the warm-up run of 'serving_default' with zeros gave: zeros are not" in server.log()
    answer = server.post({"inputs": ["x"]})
    assert (answer.status_code, answer.json()) == (500, {"error": "zeros are not for me"})
    error = predict_on(server, request_of(image=IMAGE)).exception()
    assert (error.code().name, error.details()) == ("INTERNAL", "zeros are not for me")


def test_the_folder_of_the_served_version_goes_away(model: Any, start: Any) -> None:
    model.put(1, label="one")
    model.put(2, label="two")
    server = start()
    assert label(server) == "two"
    shutil.rmtree(model.base_path / "2")
    wait_until(lambda: label(server) == "one")
    shutil.rmtree(model.base_path / "1")
    wait_until(lambda: server.state(1) == "END")
    assert label(server) == 404
    model.put(3, label="three")
    wait_until(lambda: label(server) == "three")


def test_a_base_path_that_is_away_changes_nothing(model: Any, start: Any) -> None:
    model.put(1, label="one")
    server = start()
    away = model.base_path.rename(model.base_path.with_name("away"))
    wait_until(lambda: "the versions stay as they are" in server.log())
    assert label(server) == "one"
    away.rename(model.base_path)
    model.put(2, label="two")
    wait_until(lambda: label(server) == "two")


def test_all_versions(model: Any, start: Any) -> None:
    model.put(1, label="one")
    model.put(3, label="three")
    model.put(2, fail_load="broken")
    server = start("--all-versions")
    wait_until(lambda: server.state(3) == "AVAILABLE")
    assert [label(server), label(server, 1), label(server, 3)] == ["three", "one", "three"]
    assert label(server, 2) == 404
    model.put(4, label="four")
    wait_until(lambda: label(server) == "four")
    assert label(server, 1) == "one"


def test_the_versions_that_were_asked_for(model: Any, start: Any) -> None:
    for version in (1, 2, 3):
        model.put(version, label=str(version))
    server = start("--version", "1", "2", "4")
    wait_until(lambda: server.state(2) == "AVAILABLE")
    assert [label(server), label(server, 1), label(server, 3)] == ["2", "1", 404]
    model.put(4, label="4")
    wait_until(lambda: label(server) == "4")


def test_what_is_no_version_is_ignored(model: Any, start: Any) -> None:
    model.put(1, label="one")
    for name in (".incoming-5", "v2", "-7", "\uff12", "9" * 30, "1.5"):
        (model.base_path / name).mkdir()
    (model.base_path / "8").write_text("a file")
    server = start()
    assert label(server) == "one"
    statuses = httpx.get(f"http://{server.rest}/v1/models/m").json()["model_version_status"]
    assert [entry["version"] for entry in statuses] == ["1"]


def test_a_folder_with_zeros_in_front_is_its_number(model: Any, start: Any) -> None:
    model.put(7, label="seven").rename(model.base_path / "007")
    model.put(123, label="more").rename(model.base_path / "00000123")
    server = start()
    assert server.state(123) == "AVAILABLE"
    assert label(server) == "more"
    model.put(124, label="next").rename(model.base_path / "0124")
    wait_until(lambda: server.state(124) == "AVAILABLE")
    assert label(server) == "next"
    (model.base_path / "0124").rename(model.base_path / ".gone")
    wait_until(lambda: label(server) == "more")
    model.put(123, label="other")
    wait_until(lambda: "version 123 is loaded from 123, and 00000123 is ignored" in server.log())


def test_random_weights_are_said_with_every_answer(
    model: Any, start: Any, predict_on: Any, request_of: Any
) -> None:
    model.put(1, manifest=manifest(has_random_weights=True))
    server = start()
    answer = server.post({"inputs": ["x"]})
    assert answer.headers["x-mlserve-random-weights"] == "1"
    call = predict_on(server, request_of(image=IMAGE))
    assert dict(call.initial_metadata())["mlserve-random-weights"] == "1"
    assert call.result()


def test_a_model_of_ours_must_answer_its_first_request(model: Any, start: Any) -> None:
    model.put(1)
    server = start()
    model.put(2, manifest=manifest(), fail_run="no such operation")
    wait_until(lambda: server.state(2) == "END")
    message = status(server, 2)["status"]["error_message"]
    assert message == "version 2 does not answer its first request: no such operation"
    assert model.runs().count("close") == 1  # nothing of it stays in memory
    assert label(server) == "sorrel"
