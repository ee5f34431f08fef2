"""`mlserve up --ladder`: each answer names its rung, over four ways and from processes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from mlserve.testing.processes import wait_until
from mlserve.wire.proto.inference_pb2 import ModelInferRequest
from tests.harness.command import FREE_PORTS, Command
from tests.harness.ladder import BACKEND, CLEAR, FLIPPED, MODEL, label, png, write_rungs

pytestmark = [pytest.mark.framework, pytest.mark.server]

UP = ("up", "--model", MODEL, "--ladder", "int8,fp32", *FREE_PORTS)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = tmp_path_factory.mktemp("ladder")
    write_rungs(folder / "store", folder)
    command = Command(folder, {"MLSERVE_HOME": str(folder / "home")})
    yield command
    command("down", "--all")


@pytest.fixture(scope="module")
def server(command: Command) -> Any:
    done = command(*UP, "--store", "store")
    assert done.returncode == 0, done.stderr
    [server] = command.ps()
    return server


def over_rest(server: Any, api: str, *colours: Any) -> httpx.Response:
    images = [base64.b64encode(png(colour)).decode() for colour in colours]
    if api == "tfs":
        path, body = f"/v1/models/{MODEL}:predict", {"inputs": [{"b64": text} for text in images]}
    else:
        image = {"name": "image", "shape": [len(images)], "datatype": "BYTES", "data": images}
        path, body = f"/v2/models/{MODEL}/infer", {"inputs": [image]}  # type: ignore[dict-item]
    return httpx.post(server["rest"] + path, json=body, timeout=30)


def over_grpc(server: Any, api: str, *colours: Any) -> Any:
    from mlserve.wire.proto.serving_pb2 import PredictRequest

    if api == "tfs":
        path, tfs = "/tensorflow.serving.PredictionService/Predict", PredictRequest()
        tfs.model_spec.name = MODEL
        tensor = tfs.inputs["image"]
        tensor.dtype = 7
        tensor.tensor_shape.dim.add(size=len(colours))
        tensor.string_val.extend(map(png, colours))
        message: Any = tfs
    else:
        path, message = "/inference.GRPCInferenceService/ModelInfer", ModelInferRequest()
        message.model_name = MODEL
        given = message.inputs.add(name="image", datatype="BYTES", shape=[len(colours)])
        given.contents.bytes_contents.extend(map(png, colours))
    with grpc.insecure_channel(server["grpc"]) as channel:
        method = channel.unary_unary(path)
        return dict(
            method.with_call(message.SerializeToString(), timeout=30)[1].trailing_metadata()
        )


@pytest.mark.parametrize("api", ["tfs", "oip"])
def test_each_answer_names_its_rung(server: Any, api: str) -> None:
    answer = over_rest(server, api, CLEAR, FLIPPED, FLIPPED)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-mlserve-rung"] == "int8, fp32;rows=2"
    assert label(FLIPPED) in answer.text
    assert over_grpc(server, api, CLEAR)["mlserve-rung"] == "int8"


def holds(server: Any) -> bool:
    """Return whether every golden input of both rungs was answered right; none may be wrong."""
    text = over_rest(server, "tfs", CLEAR).headers["x-mlserve-served-by"]
    assert "int8,fp32" in text
    assert "drifted" not in text
    return "certificate=holds" in text


def test_both_rungs_are_held_to_their_certificates(server: Any) -> None:
    wait_until(lambda: holds(server))


def test_the_ladder_is_shown(server: Any, command: Command) -> None:
    [ladder] = command.json("status", "--timeout", "60")["load"]["ladders"]
    assert ladder["rungs"] == [["int8", f"{BACKEND}/{MODEL}@2"], ["fp32", f"{BACKEND}/{MODEL}@1"]]
    assert ladder["policy"] == "refuse"
    assert "answered by int8" in command("status", "--timeout", "60").stdout
    assert f"ladder {BACKEND}/{MODEL}@2" in command("ps").stdout
    over_rest(server, "tfs", CLEAR, FLIPPED)
    page = httpx.get(server["rest"] + "/metrics").text
    for rung in ("int8", "fp32"):
        assert f'{{fate="certain",model="{MODEL}",rung="{rung}",version="1"}}' in page
    assert f'mlserve_ladder_climbs_total{{model="{MODEL}",version="1"}}' in page


def test_the_processes_of_a_version_climb_too(command: Command, server: Any) -> None:
    command("down", "--all")
    done = command(*UP, "--store", "store", "--processes", "2", "--ladder-policy", "answer")
    assert done.returncode == 0, done.stderr
    [server] = command.ps()
    answer = over_rest(server, "tfs", FLIPPED, CLEAR)
    assert answer.headers["x-mlserve-rung"] == "fp32, int8"
    assert len(command.json("status", "--timeout", "60")["load"]["ladders"]) == 1
    wait_until(lambda: holds(server))


def test_what_cannot_be_a_ladder_starts_no_server(command: Command) -> None:
    for flags, message in (
        (("--ladder", f"{BACKEND}/{MODEL}@1,{BACKEND}/{MODEL}@7"), "no version 7 of"),
        (("--ladder", "int8,fp32", "--version", "1"), "--version does not go with --ladder"),
        (("--ladder", "int8,fp32", "--launcher", "docker"), "docker launcher does not take"),
        (("--ladder-policy", "answer"), "--ladder-policy needs --ladder"),
    ):
        done = command("up", "--model", MODEL, "--store", "store", *flags)
        assert done.returncode != 0
        assert message in done.stderr
