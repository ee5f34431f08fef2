"""What passes by itself is asked again, inside the same deadline; what does not is not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mlserve.client import Client, Retries
from mlserve.client.retries import ONCE
from mlserve.errors import DeadlineExceeded, MlserveError, Overloaded, Unavailable
from mlserve.tensors import DType, Signature, TensorSpec
from tests.harness.foreign import Refusal
from tests.harness.foreign_tfs import TfsModel

pytestmark = pytest.mark.server

TEXT_IN = Signature(
    "top_k",
    (TensorSpec("image", DType.BYTES, (None,)),),
    (TensorSpec("out", DType.BYTES, (None,)),),
)
ANSWERS = {"top_k": {"out": ["ox"]}}
SEED = 7


@pytest.fixture
def busy() -> Any:
    """`busy(n, ...)` is a model that refuses the first n calls."""

    def build(count: int, code: str = "UNAVAILABLE", http: int = 503, **headers: str) -> Any:
        refusals = [Refusal(code, "come back", http=http, headers=headers) for _ in range(count)]
        return TfsModel((TEXT_IN,), ANSWERS, refusals=refusals)

    return build


def _client(endpoint: str, **options: Any) -> Client:
    seeded = {"retries": Retries(random=Random(SEED))}
    return Client(endpoint, model="stranger", **(seeded | options))


@pytest.mark.parametrize(
    ("code", "http", "kind"),
    [("UNAVAILABLE", 503, "unavailable"), ("RESOURCE_EXHAUSTED", 429, "overloaded")],
)
def test_an_answer_after_refusals_tells_of_them(
    serve: Any, busy: Any, code: str, http: int, kind: str
) -> None:
    model = busy(3, code, http)
    with _client(serve(model)) as client:
        found = client.predict(b"1", timeout=20)

    chance = Random(SEED)
    waits = [chance.uniform(0, 50), chance.uniform(0, 100), chance.uniform(0, 200)]
    assert (found.label, found.attempts) == ("ox", 4)
    assert [retry.kind for retry in found.retries] == [kind] * 3
    assert [retry.waited_ms for retry in found.retries] == pytest.approx(waits)
    parts = found.timings.to_json()
    total = parts.pop("total")
    assert sum(part or 0 for part in parts.values()) == pytest.approx(total, abs=0.01)
    assert found.timings.wait >= sum(waits)
    assert all("come back" in retry.message for retry in found.retries)
    assert found.timings.wait >= sum(waits)


def test_the_request_id_stays_and_each_attempt_is_a_span(serve: Any, busy: Any) -> None:
    model = busy(2)
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    with _client(serve(model), traceparent=parent, api="tfs") as client:
        found = client.predict(b"1", timeout=20)

    spans = [headers["traceparent"].split("-") for headers in model.met]
    assert {headers["x-request-id"] for headers in model.met} == {found.request_id}
    assert {span[1] for span in spans} == {found.trace_id} == {"a" * 32}
    assert len({span[2] for span in spans} | {"b" * 16}) == 4


def test_attempts_are_limited_and_the_error_tells_of_them(serve: Any, busy: Any) -> None:
    model = busy(9)
    with (
        _client(serve(model), retries=Retries(max_attempts=3, base=0.001)) as client,
        pytest.raises(Unavailable, match=r"come back \(after 3 attempts\)$") as caught,
    ):
        client.predict(b"1", timeout=20)

    details = caught.value.details
    assert len(model.met) == details["attempts"] == 3
    assert [retry["kind"] for retry in details["retries"]] == ["unavailable"] * 2
    assert details["request_id"] == model.met[0]["x-request-id"]


def test_one_attempt_is_no_retry(serve: Any, busy: Any) -> None:
    model = busy(1)
    with _client(serve(model), retries=ONCE) as client, pytest.raises(Unavailable) as caught:
        client.predict(b"1", timeout=20)

    assert len(model.met) == 1
    assert "attempts" not in caught.value.message


@pytest.mark.parametrize(
    ("code", "http"),
    [
        ("DEADLINE_EXCEEDED", 504),
        ("INVALID_ARGUMENT", 400),
        ("NOT_FOUND", 404),
        ("INTERNAL", 500),
        ("UNAUTHENTICATED", 401),
    ],
)
def test_what_does_not_pass_is_not_asked_again(serve: Any, busy: Any, code: str, http: int) -> None:
    model = busy(2, code, http)
    with _client(serve(model), api="tfs") as client, pytest.raises(MlserveError) as caught:
        client.predict(b"1", timeout=20)

    assert caught.value.details["retries"] == []
    assert not model.asked  # nothing but a look at the metadata, where the words ask for one


def test_a_hint_is_kept_to(serve: Any, busy: Any) -> None:
    hints = {"grpc-retry-pushback-ms": "300", "Retry-After": "9", "Retry-After-Ms": "300"}
    model = busy(1, "RESOURCE_EXHAUSTED", 429, **_lower(hints))
    with _client(serve(model)) as client:
        found = client.predict(b"1", timeout=20)

    (retry,) = found.retries
    assert retry.waited_ms == pytest.approx(300 + Random(SEED).uniform(0, 50))


def test_seconds_are_a_hint_too(serve: Any, busy: Any) -> None:
    model = busy(1, "RESOURCE_EXHAUSTED", 429, **{"retry-after": "0.2"})
    with _client(serve(model)) as client:
        (retry,) = client.predict(b"1", timeout=20).retries

    assert retry.waited_ms == pytest.approx(200 + Random(SEED).uniform(0, 50))


def test_a_wait_past_the_deadline_is_not_begun(serve: Any, busy: Any) -> None:
    hints = {"grpc-retry-pushback-ms": "60000", "retry-after": "60"}
    model = busy(1, "RESOURCE_EXHAUSTED", 429, **hints)
    began = time.monotonic()
    with _client(serve(model)) as client, pytest.raises(Overloaded) as caught:
        client.predict(b"1", timeout=30)

    assert time.monotonic() - began < 30
    assert caught.value.details["attempts"] == 1
    assert "try again in 60 s" in str(caught.value.hint)


@pytest.mark.parametrize("pushback", ["-1", "soon"])
@pytest.mark.parametrize("serve", ["grpc"], indirect=True)
def test_a_pushback_that_forbids(serve: Any, busy: Any, pushback: str) -> None:
    model = busy(1, **{"grpc-retry-pushback-ms": pushback})
    with _client(serve(model)) as client, pytest.raises(Unavailable):
        client.predict(b"1", timeout=20)

    assert len(model.met) == 1


def test_retries_end_with_the_deadline(serve: Any) -> None:
    model = TfsModel((TEXT_IN,), refusal=Refusal("UNAVAILABLE", "draining", http=503))
    patient = Retries(max_attempts=10**6, base=0.01, cap=0.01)
    with (
        _client(serve(model), retries=patient) as client,
        pytest.raises((Unavailable, DeadlineExceeded)) as caught,
    ):
        client.predict(b"1", timeout=3)

    assert caught.value.details["attempts"] > 2


def test_a_look_at_the_metadata_is_asked_again_and_status_is_not(serve: Any, busy: Any) -> None:
    model = busy(2)
    with _client(serve(model)) as client:
        with pytest.raises(Unavailable):
            client.status(timeout=20)
        assert client.metadata(timeout=20).model == "stranger"


def test_the_command_line(cli: Any, serve: Any, busy: Any, photo: Path) -> None:
    endpoint = serve(busy(3))
    options = ["--endpoint", endpoint, "--model", "stranger", "--output", "json", "--timeout", 20]
    refused = cli("predict", photo, *options, "--max-attempts", 1)
    answered = cli("predict", photo, *options)

    error = json.loads(refused.stderr)["error"]
    assert (refused.returncode, error["kind"], error["attempts"]) == (5, "unavailable", 1)
    found = answered.json()
    assert (found["attempts"], len(found["retries"])) == (3, 2)
    assert found["retries"][0]["kind"] == "unavailable"
    assert found["retries"][0]["waited_ms"] <= 50


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {key.lower(): value for key, value in headers.items()}
