"""TorchServe with a handler that is not mlserve's; `plugins/torch/tests` asks a real one."""

from __future__ import annotations

from typing import Any

import pytest

from mlserve.client import Client, Retries
from mlserve.errors import InferenceFailed, NotFound, Overloaded, Unavailable, UsageError
from tests.harness.foreign import MODEL, Refusal
from tests.harness.foreign_torchserve import TorchServeModel

IMAGE = b"\xff\xd8\xff\x00 not UTF-8"
SCORES = b'{\n  "ox": 0.25,\n  "impala": 0.75\n}'
NO_WORKER = Refusal(
    "INTERNAL",
    'Model "stranger" has no worker to serve inference request. Please use scale workers API to '
    "add workers.",
    http=503,
)


def ask(endpoint: str, **options: Any) -> Any:
    with Client(endpoint, model=MODEL, **options) as client:
        return client.predict(IMAGE, timeout=20, top_k=options.pop("top_k", None))


def test_it_is_found_by_trying_and_asked_for_the_file(serve: Any) -> None:
    model = TorchServeModel([SCORES])
    found = ask(serve(model))
    assert (found.label, found.api, found.version) == ("impala", "torchserve", None)
    assert [(s.label, s.score, s.index) for s in found.scores] == [
        ("impala", 0.75, None),
        ("ox", 0.25, None),
    ]
    assert (model.files, model.asked) == ([IMAGE], [""])


def test_a_version_is_part_of_the_request(serve: Any) -> None:
    model = TorchServeModel([SCORES])
    assert ask(serve(model), version=3, api="torchserve").version == 3
    assert model.asked == ["3"]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        (b"ox", "ox"),
        (b'"ox"', "ox"),
        (b'["ox"]', "ox"),
        (b'[{"ox": 1}]', "ox"),
        ('"Käse"'.encode(), "Käse"),
        ("Käse\n".encode(), "Käse"),
    ],
)
def test_the_forms_of_a_label(over_rest: Any, answer: bytes, label: str) -> None:
    assert ask(over_rest(TorchServeModel([answer]))).label == label


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[]",
        b"[0.25, 0.75]",
        b'{"ox": true}',
        b'{"width": 640, "height": 480}',
        b'{"ox": NaN}',
        b'{"ox": "likely"}',
        b'{"boxes": [[1, 2, 3, 4]]}',
        b"\x89PNG\xff",
        b"two\nlines",
        b"x" * 2000,
    ],
)
def test_an_answer_without_labels_is_an_error_that_shows_it(over_rest: Any, answer: bytes) -> None:
    with pytest.raises(InferenceFailed, match=r"not (a label|JSON or a label)"):
        ask(over_rest(TorchServeModel([answer])))


def test_a_handler_that_raises_is_asked_once(serve: Any) -> None:
    model = TorchServeModel([Refusal("UNAVAILABLE", "Prediction failed", http=503)])
    with pytest.raises(InferenceFailed, match=r"failed: Prediction failed$"):
        ask(serve(model), retries=Retries(max_attempts=3))
    assert len(model.files) == 1


def test_a_worker_that_dies_with_the_request(serve: Any) -> None:
    model = TorchServeModel([Refusal("INTERNAL", "Worker died.", http=500)])
    with pytest.raises(InferenceFailed, match=r"failed: Worker died\.$"):
        ask(serve(model), retries=Retries(max_attempts=3))
    assert len(model.files) == 1


def test_without_a_worker_it_is_asked_again(serve: Any) -> None:
    model = TorchServeModel([NO_WORKER, SCORES])
    found = ask(serve(model), retries=Retries(max_attempts=3))
    assert (found.label, [retry.kind for retry in found.retries]) == ("impala", ["unavailable"])
    with pytest.raises(Unavailable, match="has no worker"):
        ask(serve(TorchServeModel([NO_WORKER])), retries=Retries(max_attempts=1))


def test_out_of_memory_is_overload(serve: Any) -> None:
    model = TorchServeModel([Refusal("INTERNAL", "Out of resources", http=507)])
    with pytest.raises(Overloaded, match="no room for the request: Out of resources"):
        ask(serve(model), retries=Retries(max_attempts=1))


def test_another_model_is_not_found(serve: Any) -> None:
    endpoint = serve(TorchServeModel([SCORES]))
    for call in (Client.status, Client.metadata, lambda client: client.predict(IMAGE)):
        with (
            Client(endpoint, model="nobody") as client,
            pytest.raises(NotFound, match=r"Model not found: nobody$"),
        ):
            call(client)


def test_its_state_is_the_servers_health(serve: Any) -> None:
    model = TorchServeModel([SCORES])
    endpoint = serve(model)
    with Client(endpoint, model=MODEL, api="torchserve") as client:
        [row] = client.status(timeout=20)
        assert (row.version, row.is_available) == (None, True)
        model.health = "Unhealthy"
        [row] = client.status(timeout=20)
        assert (row.version, row.is_available) == (None, False)
    assert model.files == []


def test_it_does_not_describe_the_model(serve: Any) -> None:
    endpoint = serve(TorchServeModel([SCORES]))
    with Client(endpoint, model=MODEL) as client, pytest.raises(UsageError) as error:
        client.metadata(timeout=20)
    assert "does not describe the model stranger" in error.value.message
    assert error.value.kind == "usage_error"


def test_a_model_must_be_named(serve: Any) -> None:
    endpoint = serve(TorchServeModel([SCORES]))
    with Client(endpoint) as client, pytest.raises(UsageError, match="does not list the models"):
        client.predict(IMAGE, timeout=20)


def test_the_path_of_a_model_is_no_endpoint() -> None:
    with pytest.raises(UsageError) as error:
        Client("http://127.0.0.1:8080/predictions/resnet/2")
    assert 'give http://127.0.0.1:8080 and model="resnet"' in str(error.value.hint)
