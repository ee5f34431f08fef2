"""`mlserve up` and the certificate: what is served, what is refused, and what says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from mlserve.testing.processes import wait_until
from mlserve.wire.proto.inference_pb2 import ModelInferRequest
from mlserve.wire.proto.serving_pb2 import PredictRequest
from tests.harness.command import FREE_PORTS, Command
from tests.harness.ladder import BACKEND, write_table_rungs

pytestmark = [pytest.mark.framework, pytest.mark.server]

MODEL = "table"
ROW = [1.0, 0.0, 0.0]
UP = ("up", "--backend", BACKEND, "--model", MODEL, "--store", "store", *FREE_PORTS)
KEY = "mlserve-served-by"


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path, {"MLSERVE_HOME": str(tmp_path / "home")})
    yield command
    command("down", "--all")


def started(command: Command, *options: str) -> Any:
    done = command(*UP, *options)
    assert done.returncode == 0, done.stderr
    [server] = command.ps()
    return server


def over_four_ways(server: Any) -> list[str]:
    """Return what the answers of both protocols say of the server, over REST and gRPC."""
    tfs = httpx.post(f"{server['rest']}/v1/models/{MODEL}:predict", json={"instances": [ROW]})
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": ROW}
    oip = httpx.post(f"{server['rest']}/v2/models/{MODEL}/infer", json={"inputs": [tensor]})
    assert (tfs.status_code, oip.status_code) == (200, 200)
    infer = ModelInferRequest(model_name=MODEL)
    given = infer.inputs.add(name="x", shape=[1, 3], datatype="FP32")
    given.contents.fp32_contents.extend(ROW)
    predict = PredictRequest()
    predict.model_spec.name = MODEL
    predict.inputs["x"].dtype = 1
    for size in (1, 3):
        predict.inputs["x"].tensor_shape.dim.add(size=size)
    predict.inputs["x"].float_val.extend(ROW)
    found = [answer.headers[f"x-{KEY}"] for answer in (tfs, oip)]
    with grpc.insecure_channel(server["grpc"]) as channel:
        for path, message in (
            ("/tensorflow.serving.PredictionService/Predict", predict),
            ("/inference.GRPCInferenceService/ModelInfer", infer),
        ):
            _, call = channel.unary_unary(path).with_call(message.SerializeToString(), timeout=30)
            metadata = dict([*call.initial_metadata(), *call.trailing_metadata()])
            found.append(metadata[KEY])
    return found


@pytest.mark.parametrize("processes", ["1", "2"])
def test_answers_say_what_gave_them(command: Command, processes: str) -> None:
    write_table_rungs(command.folder / "store")
    server = started(command, "--processes", processes)
    wait_until(lambda: over_four_ways(server)[0].endswith("certificate=holds"))
    texts = over_four_ways(server)
    assert len(set(texts)) == 1
    assert texts[0].startswith("ONNX Runtime ")
    assert "; int8; " in texts[0]
    [serving] = command.json("status", "--timeout", "60")["load"]["serving"]
    assert serving["by"] == texts[0]
    assert serving["golden"].startswith("1 of 1 golden inputs are answered right, largest")
    [server] = command.ps()
    assert server["answers"] == [serving]
    text = command("ps").stdout
    assert f"{MODEL} version 2: {texts[0]}" in text
    assert [len(each["pids"]) for each in server["processes"]] == ([2] if processes == "2" else [])
    assert (f"processes: version 2 of {MODEL} runs in 2" in text) == (processes == "2")


def test_the_good_version_goes_on_when_the_next_one_drifts(command: Command) -> None:
    write_table_rungs(command.folder / "store")
    server = started(command)
    bad = command.folder / "bad"
    write_table_rungs(bad, golden_scale=3.0)
    next_one = command.folder / "store" / BACKEND / MODEL / "3"
    (bad / BACKEND / MODEL / "2").rename(next_one)

    def states() -> dict[int, Any]:
        found = command.json("status", "--timeout", "60")["versions"]
        return {row["version"]: row for row in found}

    wait_until(lambda: 3 in states() and states()[3]["state"] == "END", 60)
    assert "row: probabilities differs by 0.67" in json.dumps(states()[3])
    assert states()[2]["state"] == "AVAILABLE"
    assert over_four_ways(server)[0].endswith("certificate=holds")


def test_a_drifted_version_does_not_start_but_with_on_drift_serve(command: Command) -> None:
    write_table_rungs(command.folder / "store", golden_scale=3.0)
    refused = command(*UP)
    assert refused.returncode != 0
    assert "does not give the answers of its certificate" in refused.stderr
    assert "--on-drift serve" in refused.stderr
    server = started(command, "--on-drift", "serve")
    assert all(text.endswith("certificate=drifted") for text in over_four_ways(server))
    shown = command("status", "--timeout", "60").stdout
    assert "WARNING: 1 of 1 golden inputs are answered wrong here" in shown
    metrics = httpx.get(f"{server['rest']}/metrics").text
    assert f'mlserve_golden_inputs_wrong{{model="{MODEL}",version="2"}} 1.0' in metrics
