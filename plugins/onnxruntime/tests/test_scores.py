"""Scores that are not finite numbers are an error for that image alone."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from onnx import helper

from mlserve import plugins
from mlserve.errors import InferenceFailed
from mlserve.load_options import LoadOptions
from mlserve.server.models.loading import warm_up
from mlserve.sources import Classifier
from mlserve.testing.artifacts import exported
from mlserve.testing.colours import colour_classifier
from mlserve.testing.image_classifier import ask
from mlserve.testing.images import noise, plain, saved
from mlserve.testing.processes import launched

pytestmark = pytest.mark.framework


def test_a_model_that_divides_by_the_deviation_answers_its_first_request(
    onnx_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Of one colour the deviation is 0; such an image is an error, and no reason not to load."""
    axes = {"axes": [1, 2, 3], "keepdims": 1}
    file = onnx_file(
        helper.make_node("ReduceMean", ["pixels"], ["mean"], **axes),
        helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variance"], **axes),
        helper.make_node("Sqrt", ["variance"], ["deviation"]),
        helper.make_node("Div", ["centred", "deviation"], ["standard"]),
        helper.make_node("ReduceMax", ["standard"], ["scores"], axes=[1, 2], keepdims=0),
    )
    model = colour_classifier(file, framework="onnx")
    artifact = exported("onnxruntime", model, tmp_path / "m")
    runner = plugins.backend("onnxruntime").load(artifact, LoadOptions())
    warm_up(artifact, runner)
    assert ask(runner, saved(noise(20, 20)))["labels"].shape == (1, 3)
    with pytest.raises(InferenceFailed, match="3 of 3 scores are NaN"):
        ask(runner, plain("white", "PNG"))
    runner.close()


@pytest.mark.server
def test_a_caller_is_told_and_the_others_in_its_batch_are_answered(
    divided_colours: Classifier, tmp_path: Path
) -> None:
    artifact = exported("onnxruntime", divided_colours, tmp_path / "m")
    grey, red = plain("grey", "PNG"), plain("red", "PNG")
    flags = ("--threads", "1", "--max-batch-size", "4", "--max-batch-delay", "0.5")
    with launched("onnxruntime", artifact, *flags) as server:
        server.wait_ready()
        for protocol in ("grpc", "rest"):
            with server.client(protocol) as client, ThreadPoolExecutor(3) as callers:
                asked = [
                    callers.submit(client.predict, image, timeout=20) for image in (grey, red, grey)
                ]
                with pytest.raises(InferenceFailed, match="2 of 3 scores are NaN"):
                    asked[1].result()
                assert asked[0].result().label == asked[2].result().label == "red"
        body = {"inputs": [{"b64": base64.b64encode(red).decode()}]}
        answer = httpx.post(f"http://{server.rest}/v1/models/{server.model}:predict", json=body)
    assert answer.status_code == 500
    assert answer.json()["error"].endswith("for the image: 2 of 3 scores are NaN")
