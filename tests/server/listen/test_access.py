"""The token: what needs it on both ports, and what a server says of a file that holds none."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlserve.server.listen.access import KnownTokens
from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from mlserve.tokens import Token
from mlserve.wire.proto.inference_pb2 import ModelInferRequest
from tests.harness.server import serving

pytestmark = pytest.mark.server

TOKEN = "c0ffee-Zm9v_~!"
PREDICT = "/v1/models/m:predict"
OPEN = ["/v2/health/live", "/v2/health/ready", "/", "/docs"]
CLOSED = [
    *("/v2", "/v2/", "/v2/models/m", "/v2/models/m/ready", "/v1/models/m", "/v1/models/m/metadata"),
    *("/metrics", "/openapi.json", "/mlserve/decisions", "/mlserve/shadow"),
    *("/nowhere", "/docs/"),
    *("/v2/health/live/x", "/v2/health"),
]
METHODS = [
    "/tensorflow.serving.PredictionService/Predict",
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    "/tensorflow.serving.ModelService/GetModelStatus",
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ServerMetadata",
    "/inference.GRPCInferenceService/ModelReady",
    "/mlserve.Server/Decisions",
    "/mlserve.Server/Shadow",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/no.such.Service/Method",
]
WRONG = {
    "none": None,
    "empty": "",
    "another": "Bearer another",
    "longer": f"Bearer {TOKEN}x",
    "shorter": f"Bearer {TOKEN[:-1]}",
    "no scheme": TOKEN,
    "another scheme": f"Basic {TOKEN}",
    "scheme alone": "Bearer",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("access")
    path = folder / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    with serving(folder, f"--token-file={path}", wait=is_ready) as server:
        yield server


def is_ready(server: Any) -> bool:
    return bool(httpx.get(f"http://{server.rest}/v2/health/ready").status_code == 200)


def bearer(value: str | None = f"Bearer {TOKEN}") -> dict[str, str]:
    return {} if value is None else {"Authorization": value}


def metadata(value: str | None = f"Bearer {TOKEN}") -> tuple[tuple[str, str], ...]:
    return () if value is None else (("authorization", value),)


class TestRest:
    @pytest.mark.parametrize("path", OPEN)
    def test_health_and_the_pages_for_people_need_none(self, http: httpx.Client, path: str) -> None:
        assert http.get(path).status_code == 200

    @pytest.mark.parametrize("path", CLOSED)
    def test_everything_else_does(self, http: httpx.Client, path: str) -> None:
        refused = http.get(path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json() == {"error": "this server requires a token, and the request has none"}
        assert http.get(path, headers=bearer()).status_code != 401

    @pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
    def test_a_wrong_one(self, http: httpx.Client, value: str | None) -> None:
        response = http.post(PREDICT, json={"inputs": ["x"]}, headers=bearer(value))
        assert response.status_code == 401
        assert TOKEN not in response.text

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_the_right_one(self, http: httpx.Client, scheme: str) -> None:
        headers = bearer(f"{scheme} {TOKEN}")
        response = http.post(PREDICT, json={"inputs": ["x"]}, headers=headers)
        assert response.json() == {"outputs": ["sorrel"]}

    def test_no_other_header_stands_for_it(self, http: httpx.Client) -> None:
        """A Host with a path in it must not make any path look like that of the health."""
        for host in ("x/v2/health/live?", "x/v2/health/live#", "/v2/health/live?"):
            assert http.get("/v2", headers={"Host": host}).status_code == 401
        for path in ("/v2/health/../models/m", "/v2//health/live/../..", "//v2/models/m"):
            assert http.get(path).status_code == 401

    def test_a_large_body_without_one_is_not_taken(self, http: httpx.Client) -> None:
        assert http.post(PREDICT, content=b" " * 10_000_000).status_code == 401
        assert http.get(OPEN[0]).status_code == 200


class TestGrpc:
    @pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
    @pytest.mark.parametrize("method", METHODS[:1])
    def test_a_wrong_one(self, channel_to: Any, server: Any, method: str, value: Any) -> None:
        assert code_of(channel_to(server), method, value) is grpc.StatusCode.UNAUTHENTICATED

    @pytest.mark.parametrize("method", METHODS)
    def test_every_service_wants_it(self, channel_to: Any, server: Any, method: str) -> None:
        channel = channel_to(server)
        assert code_of(channel, method, None) is grpc.StatusCode.UNAUTHENTICATED
        assert code_of(channel, method, f"Bearer {TOKEN}") is not grpc.StatusCode.UNAUTHENTICATED

    def test_a_call_of_streams_is_refused_before_it_says_anything(
        self, channel_to: Any, server: Any
    ) -> None:
        call = channel_to(server).stream_stream(METHODS[6])
        with pytest.raises(grpc.RpcError) as refused:
            next(call(never(), timeout=10))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    def test_health_and_the_pages_for_people_need_none(self, channel_to: Any, server: Any) -> None:
        health = health_pb2_grpc.HealthStub(channel_to(server))
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watched = health.Watch(health_pb2.HealthCheckRequest(), timeout=10)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()

    @pytest.mark.parametrize("method", ["ServerLive", "ServerReady"])
    def test_nor_does_the_health_of_the_open_inference_protocol(
        self, channel_to: Any, server: Any, method: str
    ) -> None:
        ask = channel_to(server).unary_unary(f"/inference.GRPCInferenceService/{method}")
        assert ask(b"", timeout=10) == b"\x08\x01"  # True, in the first field
        near = f"/inference.GRPCInferenceService/{method}x"
        assert code_of(channel_to(server), near, None) is grpc.StatusCode.UNAUTHENTICATED

    def test_the_right_one(self, channel_to: Any, server: Any, request_of: Any) -> None:
        request = request_of(image=(np.array([b"x"], dtype=object), DType.BYTES))
        method = channel_to(server).unary_unary(METHODS[0])
        assert b"sorrel" in method(request.SerializeToString(), timeout=10, metadata=metadata())
        infer = ModelInferRequest(model_name="m")
        infer.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
            b"x"
        )
        method = channel_to(server).unary_unary(METHODS[3])
        assert b"sorrel" in method(infer.SerializeToString(), timeout=10, metadata=metadata())


TOKENS = {"web": "91d7e4", "batch": "5f0c2a", "batch ": "5f0c2b", "": "Zm9v=="}
"""One of a server with several tokens, by the name of each: `batch` has an old and a new one."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with several tokens that logs every request."""
    folder = tmp_path_factory.mktemp("shared")
    path = folder / "tokens"
    lines = [f"{name} = {token}" if name else token for name, token in TOKENS.items()]
    path.write_text("\n".join(["# who may ask", *lines]))
    path.chmod(0o600)
    flags = (f"--token-file={path}", "--max-share=batch=0.3", "--log-format=json")
    with serving(folder, *flags, wait=is_ready) as server:
        yield server


class TestSeveral:
    @pytest.mark.parametrize(("name", "token"), TOKENS.items())
    def test_each_is_known_by_its_name_over_rest(self, shared: Any, name: str, token: str) -> None:
        headers = {**bearer(f"Bearer {token}"), "x-request-id": f"rest-{token}"}
        url = f"http://{shared.rest}{PREDICT}"
        response = httpx.post(url, json={"inputs": ["x"]}, headers=headers)
        assert response.json() == {"outputs": ["sorrel"]}
        assert logged(shared, f"rest-{token}").get("token", "") == name.strip()

    @pytest.mark.parametrize(("name", "token"), TOKENS.items())
    def test_each_is_known_by_its_name_over_grpc(
        self, channel_to: Any, shared: Any, request_of: Any, name: str, token: str
    ) -> None:
        request = request_of(image=(np.array([b"x"], dtype=object), DType.BYTES))
        method = channel_to(shared).unary_unary(METHODS[0])
        sent = (*metadata(f"Bearer {token}"), ("x-request-id", f"grpc-{token}"))
        assert b"sorrel" in method(request.SerializeToString(), timeout=10, metadata=sent)
        assert logged(shared, f"grpc-{token}").get("token", "") == name.strip()

    @pytest.mark.parametrize("value", ["batch", "91d7e45f0c2a", "5f0c2", "web = 91d7e4"])
    def test_no_other(self, channel_to: Any, shared: Any, value: str) -> None:
        response = httpx.get(f"http://{shared.rest}/v2", headers=bearer(f"Bearer {value}"))
        assert response.status_code == 401
        assert response.json() == {"error": "the token matches none of this server's"}
        refused = code_of(channel_to(shared), METHODS[0], f"Bearer {value}")
        assert refused is grpc.StatusCode.UNAUTHENTICATED

    def test_none_is_in_the_log(self, shared: Any) -> None:
        log = shared.log().replace("rest-", "grpc-")
        for token in TOKENS.values():
            assert token not in log.replace(f"grpc-{token}", "")


def test_what_is_kept_of_tokens_are_digests_under_a_key_of_its_own() -> None:
    """So a lookup compares nothing that a caller could choose to be near to a token."""
    tokens = [Token("web", b"91d7e4"), Token("batch", b"5f0c2a")]
    once, again = KnownTokens(tokens), KnownTokens(tokens)
    assert once.name_of(["Bearer 5f0c2a"]) == again.name_of([b"Bearer 5f0c2a"]) == "batch"
    kept = [pickle.dumps(vars(known)) for known in (once, again)]
    assert not any(token.secret in data for token in tokens for data in kept)
    assert not {*vars(once)["_known"]} & {*vars(again)["_known"]}


def logged(server: Any, request_id: str) -> dict[str, Any]:
    """Return the line of that request, which is written once its answer has left."""
    lines: list[dict[str, Any]] = []

    def is_written() -> bool:
        lines[:] = [
            json.loads(line) for line in server.log().splitlines() if f'"{request_id}"' in line
        ]
        return bool(lines)

    wait_until(is_written)
    return lines[0]


def test_the_token_is_not_in_the_log(server: Any) -> None:
    assert TOKEN not in server.log()
    assert "Traceback" not in server.log()
    assert " ERROR " not in server.log()


def test_a_file_without_a_token_ends_the_start(model: Any, launch: Any, tmp_path: Path) -> None:
    model.put(7)
    path = tmp_path / "token"
    path.write_text(" \n")
    server = launch(f"--token-file={path}")
    assert server.exit_code() == 2
    assert f"{path} (--token-file) is empty" in server.log()
    assert "hint: make one: openssl rand" in server.log()
    assert "Traceback" not in server.log()


def test_a_share_of_nobody_ends_the_start(model: Any, launch: Any, tmp_path: Path) -> None:
    model.put(7)
    path = tmp_path / "tokens"
    path.write_text("batch = 5f0c2a\n")
    server = launch(f"--token-file={path}", "--max-share=batsh=0.3")
    assert server.exit_code() == 2
    assert f"a share for batsh, and {path} (--token-file) has no token of that name" in server.log()
    assert "hint: did you mean batch?" in server.log()
    assert "5f0c2a" not in server.log()


class TestWarnings:
    def test_all_may_ask(self, model: Any, launch: Any) -> None:
        model.put(7)
        server = launch("--host=0.0.0.0")
        server.wait_listening()
        assert " WARNING the server listens on 0.0.0.0 and answers anyone" in server.log()
        assert "--token-file admits only callers with the token" in server.log()

    def test_a_token_in_clear_text_that_others_may_read(
        self, model: Any, launch: Any, tmp_path: Path
    ) -> None:
        model.put(7)
        path = tmp_path / "token"
        path.write_text(TOKEN)
        path.chmod(0o644)
        server = launch("--host=0.0.0.0", f"--token-file={path}")
        server.wait_listening()
        assert " WARNING the token is sent unencrypted" in server.log()
        assert f" WARNING every user of this machine can read {path} (--token-file)" in server.log()


def code_of(channel: grpc.Channel, method: str, value: str | None) -> grpc.StatusCode:
    try:
        channel.unary_unary(method)(b"", timeout=10, metadata=metadata(value))
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return grpc.StatusCode.OK


def never() -> Iterator[bytes]:
    """A stream of requests that the test ends before it has begun."""
    threading.Event().wait(0.5)
    yield from ()
