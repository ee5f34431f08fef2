"""One gRPC call: what refuses it, its compression, and how it is cancelled."""

from __future__ import annotations

import gzip
import struct
import time
import zlib
from typing import Any

import grpc
import numpy as np
import pytest
from hpack import NeverIndexedHeaderTuple

from mlserve.tensors import DType
from mlserve.wire.proto.serving_pb2 import GetModelStatusRequest
from tests.harness.raw_http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RESET,
    frame,
    message,
)

pytestmark = pytest.mark.server

STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
LIVE = "/inference.GRPCInferenceService/ServerLive"
ASK = GetModelStatusRequest(model_spec={"name": "m"}).SerializeToString()
OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 3, 4, 8
UNIMPLEMENTED, INTERNAL = 12, 13
PROTOCOL_ERROR = 1


class TestRefusals:
    def test_another_content_type(self, asked: Any) -> None:
        for value in ("application/json", "application/grpcx", ""):
            heard = asked(STATUS, ("content-type", value))
            assert heard.headers[":status"] == "415"
        for value in ("application/grpc+proto", "application/grpc;charset=utf-8"):
            assert asked(STATUS, ("content-type", value)).status == OK

    def test_another_method_of_http(self, asked: Any) -> None:
        assert asked(STATUS, (":method", "GET")).headers[":status"] == "405"

    @pytest.mark.parametrize("path", ["/no.such.Service/Method", "/x", "*", STATUS + "x"])
    def test_an_unknown_method(self, asked: Any, path: str) -> None:
        assert asked(path).status == UNIMPLEMENTED

    @pytest.mark.parametrize("value", ["", "1", "m", "123456789m", "-1S", "1.5S", "1s", "1 S"])
    def test_a_timeout_that_is_none(self, asked: Any, value: str) -> None:
        heard = asked(STATUS, ("grpc-timeout", value))
        assert (heard.status, "grpc-timeout" in heard.message) == (INVALID_ARGUMENT, True)

    @pytest.mark.parametrize("value", ["1H", "1M", "10S", "9999m", "99999999u", "99999999H"])
    def test_every_unit_of_a_timeout(self, asked: Any, value: str) -> None:
        assert asked(STATUS, ("grpc-timeout", value)).status == OK

    @pytest.mark.parametrize("value", ["0S", "1n", "100u", "20m"])
    def test_a_timeout_that_passes(self, raw: Any, value: str) -> None:
        client = raw()
        client.call(1, STATUS, [("grpc-timeout", value)])  # its message never comes
        assert client.answer(1).status == DEADLINE_EXCEEDED

    def test_no_message(self, asked: Any) -> None:
        heard = asked(data=b"")
        assert (heard.status, "no message" in heard.message) == (UNIMPLEMENTED, True)

    def test_headers_that_end_the_call(self, raw: Any) -> None:
        client = raw()
        client.say(frame(HEADERS, END_HEADERS | END_STREAM, 1, client.block(STATUS)))
        assert client.answer(1).status == UNIMPLEMENTED

    def test_two_messages(self, asked: Any) -> None:
        heard = asked(data=message(ASK) * 2)
        assert (heard.status, "several messages" in heard.message) == (UNIMPLEMENTED, True)

    def test_half_a_message(self, asked: Any) -> None:
        for size in (3, 5, 7):
            assert asked(data=message(ASK)[:size]).status == INTERNAL

    def test_a_message_that_would_be_too_large_is_refused_by_its_length(self, raw: Any) -> None:
        client = raw()
        client.call(1, PREDICT)
        client.say(frame(DATA, 0, 1, struct.pack(">BI", 0, 2**32 - 1)))
        heard = client.answer(1)
        assert heard.status == RESOURCE_EXHAUSTED
        assert "received message larger than max (4294967295 vs. 67108864)" in heard.message
        assert "--max-request-bytes" in heard.message
        assert heard.reset == 0

    def test_too_much_metadata(self, asked: Any) -> None:
        for value in ("x" * 17_000, "~" * 9_000):  # the second one's frame has over 16 KiB
            heard = asked(STATUS, ("a", value), ("b", value))
            assert (heard.status, "metadata" in heard.message) == (RESOURCE_EXHAUSTED, True)

    @pytest.mark.parametrize(
        "more",
        [
            [("connection", "close")],
            [("transfer-encoding", "chunked")],
            [("A", "b")],
            [("a", "b\nc")],
            [(":odd", "x")],
            [("te", "trailers"), ("te", "trailers")],
            [("te", "gzip")],
        ],
    )
    def test_fields_that_are_none_reset_the_stream(self, raw: Any, more: Any) -> None:
        client = raw()
        more = [NeverIndexedHeaderTuple(*item) for item in more]
        client.call(1, STATUS, more, data=message(ASK))
        assert client.answer(1).reset == PROTOCOL_ERROR
        client.call(3, STATUS, data=message(ASK))
        assert client.answer(3).status == OK

    def test_trailers_with_a_pseudo_header(self, raw: Any) -> None:
        client = raw()
        client.call(1, STATUS)
        client.say(frame(DATA, 0, 1, message(ASK)))
        block = client.encoder.encode([(":path", "/")])
        client.say(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
        assert client.answer(1).reset == PROTOCOL_ERROR


class TestCompression:
    @pytest.mark.parametrize("coding", ["gzip", "deflate", "identity"])
    def test_what_is_taken(self, asked: Any, coding: str) -> None:
        pack = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}[coding]
        body = message(pack(ASK), flag=int(coding != "identity"))
        assert asked(STATUS, ("grpc-encoding", coding), data=body).status == OK

    def test_what_is_not(self, asked: Any) -> None:
        heard = asked(STATUS, ("grpc-encoding", "zstd"), data=message(b"x", flag=1))
        assert heard.status == UNIMPLEMENTED
        assert heard.headers["grpc-accept-encoding"] == "identity, deflate, gzip"

    @pytest.mark.parametrize(
        "data",
        [
            b"not gzip",
            gzip.compress(ASK)[:-1],
            gzip.compress(ASK) + b"x",
            gzip.compress(b"") * 1000,
            b"",
        ],
        ids=["other data", "cut", "more behind", "many members", "nothing"],
    )
    def test_damaged(self, asked: Any, data: bytes) -> None:
        heard = asked(STATUS, ("grpc-encoding", "gzip"), data=message(data, flag=1))
        assert heard.status == INTERNAL

    def test_compressed_without_saying_how(self, asked: Any) -> None:
        assert asked(data=message(gzip.compress(ASK), flag=1)).status == INTERNAL
        assert asked(data=message(ASK, flag=2)).status == INTERNAL

    def test_a_bomb(self, raw: Any, asked: Any) -> None:
        bomb = gzip.compress(bytes(100 * 2**20))
        heard = asked(PREDICT, ("grpc-encoding", "gzip"), data=message(bomb[:60000], flag=1))
        assert heard.status in (INTERNAL, RESOURCE_EXHAUSTED)
        client = raw()
        client.call(1, PREDICT, [("grpc-encoding", "gzip")])
        for at in range(0, len(bomb), 16000):
            part = bomb[at : at + 16000]
            lead = struct.pack(">BI", 1, len(bomb)) if not at else b""
            last = at + 16000 >= len(bomb)
            client.listen(lambda: bool(client.streams.get(1)) or bool(client.windows))
            client.say(frame(DATA, END_STREAM if last else 0, 1, lead + part))
        heard = client.answer(1)
        assert (heard.status, "larger than max" in heard.message) == (RESOURCE_EXHAUSTED, True)

    @pytest.mark.parametrize("coding", [grpc.Compression.Gzip, grpc.Compression.Deflate])
    def test_of_grpcs_own_client(
        self, server: Any, channel_to: Any, request_of: Any, coding: Any
    ) -> None:
        images = np.array([bytes(2**20)], object), DType.BYTES
        method = channel_to(server).unary_unary(PREDICT)
        request = request_of(image=images).SerializeToString()
        assert b"sorrel" in method(request, timeout=20, compression=coding)


class TestCancelling:
    def test_a_reset_ends_the_call_and_nothing_else(
        self, raw: Any, server: Any, request_of: Any
    ) -> None:
        client = raw()
        slow = request_of("slow", seconds=(np.array([0.3], np.float32), DType.FLOAT32))
        client.call(1, PREDICT, data=message(slow.SerializeToString()))
        client.say(frame(RESET, 0, 1, struct.pack(">I", 8)))
        client.call(3, LIVE, data=message(b""))
        assert client.answer(3).status == OK
        assert 1 not in client.streams or not client.streams[1].has_ended

    def test_a_call_that_is_reset_before_it_begins(self, raw: Any) -> None:
        client = raw()
        call = frame(HEADERS, END_HEADERS, 1, client.block(STATUS)) + frame(RESET, 0, 1, bytes(4))
        client.say(call)
        client.call(3, STATUS, data=message(ASK))
        assert client.answer(3).status == OK

    def test_the_deadline_ends_a_call_that_runs(
        self, model: Any, start: Any, predict_on: Any, request_of: Any
    ) -> None:
        model.put(7)
        server = start("--drain-timeout=0.1")
        slow = request_of("slow", seconds=(np.array([60.0], np.float32), DType.FLOAT32))
        began = time.monotonic()
        call = predict_on(server, slow, timeout=0.3)
        assert call.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began < 30
