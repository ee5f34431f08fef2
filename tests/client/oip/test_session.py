"""What the real servers in `tests/foreign` cannot be made to show, on a stand-in of our own.

Shapes and answers that no model of theirs gives, answers that contradict themselves, and what
other versions of them say.
"""

from __future__ import annotations

from typing import Any

import pytest

from mlserve.client import Client
from mlserve.errors import (
    DeadlineExceeded,
    InferenceFailed,
    MlserveError,
    NotFound,
    UsageError,
)
from tests.harness.foreign import Refusal
from tests.harness.foreign_oip import OipModel, Output

IMAGE = b"\xff\xd8\xff\x00 not UTF-8"


def test_an_api_that_is_given_is_the_only_one(serve: Any) -> None:
    model = OipModel()
    endpoint = serve(model)
    with Client(endpoint, model="stranger", api="oip") as client:
        client.predict(IMAGE, timeout=20)
    assert "tfs" not in model.calls

    with Client(endpoint, model="stranger", api="tfs") as client, pytest.raises(UsageError):
        client.predict(IMAGE, timeout=20)
    assert model.calls.count("tfs") == 1
    assert len(model.asked) == 1


def test_an_api_that_is_none() -> None:
    with pytest.raises(UsageError, match="'v3' is not an API"):
        Client("127.0.0.1:1", api="v3")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shape", [[-1], [1], [-1, 1], [1, 1], []], ids=lambda shape: str(shape).replace(" ", "")
)
def test_any_shape_of_one_string(serve: Any, shape: list[int]) -> None:
    model = OipModel(inputs=[("data", "BYTES", shape)])
    with Client(serve(model), model="stranger") as client:
        assert client.predict(IMAGE, timeout=20).label == "ox"

    assert (model.asked[0].input, model.asked[0].shape) == ("data", [1] * len(shape))


@pytest.mark.parametrize("is_raw", [False, True])
def test_labels_and_scores_in_either_form(serve: Any, *, is_raw: bool) -> None:
    answer = [
        Output("labels", "BYTES", [1, 2], ["ox", "impala"]),
        Output("scores", "FP32", [1, 2], [0.25, 0.75]),
        Output("indices", "INT32", [1, 2], [3, 4]),
    ]
    with Client(serve(OipModel(answer=answer, is_raw=is_raw)), model="stranger") as client:
        found = client.predict(IMAGE, timeout=20)

    assert [(row.label, row.score, row.index) for row in found.scores] == [
        ("impala", 0.75, 4),
        ("ox", 0.25, 3),
    ]


@pytest.mark.parametrize("is_raw", [False, True])
def test_scores_alone_are_asked_for_as_classes(serve: Any, *, is_raw: bool) -> None:
    classes = Output("probs", "BYTES", [1, 3], ["0.750000:4:a:b", "2.5e-1:3:ox", "-0.5:2"])
    model = OipModel(outputs=[("probs", "FP32", [-1, 1000])], answer=[classes], is_raw=is_raw)
    with Client(serve(model), model="stranger") as client:
        found = client.predict(IMAGE, timeout=20, top_k=3)

    assert model.asked[0].outputs["probs"]["classification"] == 3
    assert [(row.label, row.score, row.index) for row in found.scores] == [
        ("a:b", 0.75, 4),
        ("ox", 0.25, 3),
        ("2", -0.5, 2),
    ]


def test_a_model_of_pixels_says_what_it_takes(serve: Any) -> None:
    model = OipModel(inputs=[("input_1", "FP32", [-1, 299, 299, 3])])
    with Client(serve(model), model="stranger") as client, pytest.raises(UsageError) as caught:
        client.predict(IMAGE, timeout=20)

    assert caught.value.message == (
        "the model stranger does not take image files; "
        "it takes infer(input_1: float32[?,299,299,3])"
    )
    assert model.asked == []


def test_a_model_that_declares_nothing(serve: Any) -> None:
    with (
        Client(serve(OipModel(inputs=[])), model="stranger") as client,
        pytest.raises(UsageError, match="lists no input of the model stranger") as caught,
    ):
        client.predict(IMAGE, timeout=20)

    assert "model-settings.json" in str(caught.value.hint)


def test_outputs_that_are_no_labels(serve: Any) -> None:
    answer = [Output("boxes", "FP32", [1, 2], [0.5, 0.5])]
    with (
        Client(serve(OipModel(answer=answer)), model="stranger") as client,
        pytest.raises(InferenceFailed, match=r"not labels.*\(outputs: boxes\[1, 2\]\)"),
    ):
        client.predict(IMAGE, timeout=20)


@pytest.mark.parametrize("is_raw", [False, True])
def test_an_answer_that_contradicts_itself(serve: Any, *, is_raw: bool) -> None:
    answer = [Output("label", "BYTES", [2], ["ox"])]
    with (
        Client(serve(OipModel(answer=answer, is_raw=is_raw)), model="stranger") as client,
        pytest.raises(InferenceFailed, match=r"not an output 'label' of shape \[2\]: 1 values"),
    ):
        client.predict(IMAGE, timeout=20)


def test_metadata(serve: Any) -> None:
    model = OipModel(inputs=[("x", "FP32", [-1, 8])], versions=["2", "10", "beta"])
    with Client(serve(model), model="stranger") as client:
        found = client.metadata(timeout=20)

    assert (found.model, found.version) == ("stranger", 10)
    assert [str(spec) for spec in found.signatures[0].inputs] == ["x: float32[?,8]"]


@pytest.mark.parametrize(
    ("versions", "shown"), [(["2", "10"], [10, 2]), ([], [None]), (["v1"], [None])]
)
def test_status(serve: Any, versions: list[str], shown: list[int | None]) -> None:
    model = OipModel(versions=versions)
    with Client(serve(model), model="stranger") as client:
        ready = client.status(timeout=20)
        model.is_ready = False
        waiting = client.status(timeout=20)

    assert [(row.version, row.state) for row in ready] == [(v, "AVAILABLE") for v in shown]
    assert not any(row.is_available for row in waiting)


def test_status_is_a_probe(cli: Any, serve: Any) -> None:
    endpoint = serve(OipModel(versions=[], is_ready=False))
    outcome = cli("status", "--endpoint", endpoint, "--model", "stranger", "--timeout", 20)

    assert outcome.stdout.splitlines()[1].split() == ["?", "UNKNOWN"]
    assert outcome.returncode == 5


def test_the_deadline_is_sent(serve: Any) -> None:
    model = OipModel()
    with Client(serve(model), model="stranger") as client:
        client.predict(IMAGE, timeout=20)

    (asked,) = model.asked
    assert 0 < asked.deadline <= 20
    assert 0 < asked.parameters["timeout"] <= 20_000_000
    assert "signature" not in asked.parameters


@pytest.mark.parametrize(
    ("code", "http", "text", "error", "words"),
    [
        (*("UNAVAILABLE", 400, "Request for unknown model: 'm' is not found"), NotFound, "have"),
        (*("INVALID_ARGUMENT", 404, "Model m not found"), NotFound, "does not have"),
        (*("UNKNOWN", 404, "Model with name m does not exist."), NotFound, "does not have"),
        (*("UNAVAILABLE", 503, "Request timeout expired"), DeadlineExceeded, "gave up"),
    ],
)
def test_errors_of_known_servers(
    serve: Any,
    code: str,
    http: int,
    text: str,
    error: type[MlserveError],
    words: str,
) -> None:
    model = OipModel(refusal=Refusal(code, text, http=http))
    with Client(serve(model), model="stranger") as client, pytest.raises(error) as caught:
        client.predict(IMAGE, timeout=20)

    assert type(caught.value) is error
    assert words in caught.value.message
    assert text in caught.value.message


@pytest.mark.parametrize(
    "gone",
    [
        (400, b""),  # Triton
        (404, b'{"detail":"Not Found"}'),  # MLServer, KServe
        (404, b'{"error":"Not Found"}'),
        (405, b'{"error":"Method Not Allowed"}'),
        (404, b"404 page not found"),
    ],
)
def test_what_servers_say_of_paths_they_do_not_have(
    over_rest: Any, gone: tuple[int, bytes]
) -> None:
    with Client(over_rest(OipModel(gone=gone)), model="stranger") as client:
        assert client.predict(IMAGE, timeout=20).api == "oip"
        assert client.status(timeout=20)[0].is_available


@pytest.mark.parametrize("status", [422, 500])
def test_a_server_that_does_not_say_whether_it_reads_binary_data_is_asked_twice(
    over_rest: Any, status: int
) -> None:
    model = OipModel(reads_binary=False, says_extensions=False, binary_refusal=status)
    with Client(over_rest(model), model="stranger") as client:
        client.predict(IMAGE, timeout=20)
        client.predict(IMAGE, timeout=20)

    assert [asked.image for asked in model.asked] == [IMAGE, IMAGE]
    assert model.calls.count("infer") == 3


def test_a_server_that_knows_neither(over_rest: Any) -> None:
    """What it said first is what the user is told."""
    model = OipModel(refusal=Refusal("NOT_FOUND", "Not Found"), gone=(404, b"who is there?"))
    with Client(over_rest(model), model="stranger") as client, pytest.raises(NotFound) as caught:
        client.predict(IMAGE, timeout=20)

    assert "HTTP 404 who is there?" in caught.value.message
    assert model.calls == ["tfs", "metadata", "tfs"]  # the last asks for TorchServe


def test_a_failure_stays_when_the_other_api_is_not_known_either(over_rest: Any) -> None:
    model = OipModel(v1=(500, b'{"error":"boom"}'), refusal=Refusal("NOT_FOUND", "Not Found"))
    with (
        Client(over_rest(model), model="stranger") as client,
        pytest.raises(InferenceFailed, match="failed: boom"),
    ):
        client.predict(IMAGE, timeout=20)

    assert model.calls == ["tfs", "metadata", "tfs"]  # the last asks for TorchServe


def test_a_path_before_the_api(over_rest: Any) -> None:
    """The path of the endpoint is kept; this server has nothing below it."""
    endpoint = over_rest(OipModel()) + "/team/a"
    with Client(endpoint, model="stranger", api="oip") as client, pytest.raises(NotFound):
        client.predict(IMAGE, timeout=20)
