"""The decisions of a running server, over both ports."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from mlserve.admission.recording import Decision, Recording
from mlserve.admission.verdicts import Outcome, Refusal
from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.mlserve_pb2 import DecisionsRequest, DecisionsResponse

pytestmark = pytest.mark.server

PATH = "/mlserve/decisions"
IMAGE = np.array([b"x"], object), DType.BYTES


@pytest.fixture
def narrow(model: Any, start: Any) -> Any:
    """A server with one worker, and room for one request to wait."""
    model.put(1)
    server = start("--threads", "1", "--max-queue", "1")
    model.journal.write_text("")
    return server


@pytest.fixture
def occupy(narrow: Any, model: Any, predict_on: Any, request_of: Any) -> Callable[[], Any]:
    """Keeps the one worker busy until the model is released; returns when it is."""

    def occupy() -> Any:
        request = request_of("slow", seconds=(np.array([60.0], np.float32), DType.FLOAT32))
        call = predict_on(narrow, request, timeout=60)
        wait_until(lambda: model.runs() == ["slow"])
        return call

    return occupy


def over_rest(server: Any, request_id: str = "") -> tuple[Decision, ...]:
    parameters = {"request_id": request_id} if request_id else {}
    answer = httpx.get(f"http://{server.rest}{PATH}", params=parameters, timeout=20)
    assert answer.status_code == 200
    return Recording.from_json(answer.json()).decisions


def over_grpc(channel: grpc.Channel, request_id: str = "") -> tuple[Decision, ...]:
    ask = channel.unary_unary(
        "/mlserve.Server/Decisions",
        request_serializer=DecisionsRequest.SerializeToString,
        response_deserializer=DecisionsResponse.FromString,
    )
    answer = ask(DecisionsRequest(request_id=request_id), timeout=20)
    return Recording.from_json(json.loads(answer.json)).decisions


def post(server: Any, request_id: str, **headers: str) -> int:
    sent = {"x-request-id": request_id, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return int(server.post({"inputs": ["x"]}, headers=sent).status_code)


def test_both_ports_tell_the_same(server: Any, channel_to: Any) -> None:
    assert post(server, "first") == post(server, "second") == 200
    channel = channel_to(server)
    for decisions in (over_rest(server), over_grpc(channel)):
        assert [each.request_id for each in decisions[-2:]] == ["first", "second"]
    for decisions in (over_rest(server, "second"), over_grpc(channel, "second")):
        [one] = decisions
        assert (one.request_id, one.outcome) == ("second", Outcome.ANSWERED)
        assert (one.kind.model, one.kind.version) == ("m", 7)
        assert one.caller.transport == "rest"
        assert one.started_at is not None
        assert one.ended_at is not None
        assert one.arrived_at <= one.decided_at <= one.started_at <= one.ended_at < 0
    assert over_rest(server, "third") == over_grpc(channel, "third") == ()


def test_only_get_is_answered(server: Any) -> None:
    answer = httpx.post(f"http://{server.rest}{PATH}")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


def test_an_id_with_any_visible_character_is_found(server: Any) -> None:
    strange = "a&b=c%20+#?/\"'~"
    assert post(server, strange) == 200
    assert [each.request_id for each in over_rest(server, strange)] == [strange]


def test_a_full_queue(
    narrow: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    slow = occupy()
    waits = predict_on(narrow, request_of(image=IMAGE))
    wait_until(lambda: len(over_rest(narrow)) == 2)
    assert post(narrow, "one-too-many") == 429
    [refused] = over_rest(narrow, "one-too-many")
    assert (refused.why, refused.is_let_in, refused.outcome) == (Refusal.QUEUE_FULL, False, None)
    assert (refused.waiting, refused.running, refused.limit) == (1, 1, 1.0)
    model.release()
    assert slow.result()
    assert waits.result()


def test_a_deadline_that_has_passed_already(server: Any) -> None:
    assert post(server, "late", x_request_timeout_ms="0") == 504
    [refused] = over_rest(server, "late")
    assert (refused.why, refused.is_asked) == (Refusal.EXPIRED, True)


def leave(server: Any, request_id: str, body: dict[str, Any]) -> socket.socket:
    """Send a request; the caller closes the socket."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/models/m:predict HTTP/1.1\r\nhost: m\r\ncontent-length: {len(content)}\r\n"
        f"x-request-id: {request_id}\r\n\r\n"
    )
    host, port = server.rest.split(":")
    client = socket.create_connection((host, int(port)))
    client.sendall(head.encode() + content)
    return client


def test_callers_that_leave(narrow: Any, model: Any) -> None:
    """One while its call runs, and another one while it waits for that."""
    slow = {"signature_name": "slow", "inputs": {"seconds": [60.0]}}
    running = leave(narrow, "runs", slow)
    wait_until(lambda: model.runs() == ["slow"])
    waiting = leave(narrow, "waits", {"inputs": ["x"]})
    wait_until(lambda: len(over_rest(narrow)) == 2)
    waiting.close()
    wait_until(lambda: over_rest(narrow, "waits")[0].why is Refusal.GONE)
    running.close()
    wait_until(lambda: over_rest(narrow, "runs")[0].left_at is not None)
    model.release()
    wait_until(lambda: over_rest(narrow, "runs")[0].outcome is Outcome.GONE)
    [waited], [ran] = over_rest(narrow, "waits"), over_rest(narrow, "runs")
    assert waited.out_at is not None
    assert waited.started_at is None
    assert ran.ended_at is not None
    assert ran.left_at is not None
    assert ran.left_at < ran.ended_at


def test_a_call_that_fails(server: Any) -> None:
    answer = server.post({"inputs": ["bad"]}, headers={"x-request-id": "fails"})
    assert answer.status_code != 200
    [failed] = over_rest(server, "fails")
    assert failed.outcome is Outcome.FAILED


def test_calls_over_grpc_are_kept_too(
    server: Any, channel_to: Any, predict_on: Any, request_of: Any
) -> None:
    assert predict_on(server, request_of(image=IMAGE)).result()
    [*_, last] = over_grpc(channel_to(server))
    assert (last.caller.transport, last.outcome) == ("grpc", Outcome.ANSWERED)
