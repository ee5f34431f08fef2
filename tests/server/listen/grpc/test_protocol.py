"""gRPC over HTTP/2 to the letter (PROTOCOL-HTTP2.md of grpc/grpc), as a raw client sees it."""

from __future__ import annotations

import asyncio
import gzip
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from hpack import NeverIndexedHeaderTuple

from mlserve.tensors import DType
from mlserve.wire.proto.serving_pb2 import GetModelStatusRequest
from tests.harness import raw_http2
from tests.harness.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PRIORITY,
    RESET,
    RawHttp2,
    frame,
    message,
)

pytestmark = pytest.mark.server

STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
CHECK = "/grpc.health.v1.Health/Check"
LIVE = "/inference.GRPCInferenceService/ServerLive"
ASK = GetModelStatusRequest(model_spec={"name": "m"}).SerializeToString()
OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 3, 4, 8
UNIMPLEMENTED, INTERNAL = 12, 13
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 1, 3, 5, 6
COMPRESSION_ERROR = 9


@pytest.fixture
def raw(server: Any) -> Iterator[Callable[..., RawHttp2]]:
    """Connects a raw client to the server, which answers others afterwards as before."""
    with ExitStack() as clients:
        yield lambda **how: clients.enter_context(RawHttp2(server.grpc, **how))
    with RawHttp2(server.grpc) as client:
        client.call(1, STATUS, data=message(ASK))
        assert client.answer(1).status == OK
    assert server.is_quiet()


def asked(raw: Any, path: str = STATUS, *more: Any, data: bytes = message(ASK)) -> raw_http2.Heard:
    client: RawHttp2 = raw()
    client.call(1, path, more, data=data)
    return client.answer(1)


class TestAnswers:
    def test_a_call(self, raw: Any) -> None:
        heard = asked(raw)
        assert heard.headers[":status"] == "200"
        assert heard.headers["content-type"] == "application/grpc"
        assert heard.headers["grpc-status"] == "0"
        assert heard.headers["x-request-id"]
        assert struct.unpack_from(">BI", heard.data) == (0, len(heard.data) - 5)

    def test_an_error_has_trailers_only(self, raw: Any) -> None:
        ask = GetModelStatusRequest(model_spec={"name": "é%\n"}).SerializeToString()
        heard = asked(raw, data=message(ask))
        assert (heard.status, heard.data, heard.headers[":status"]) == (5, b"", "200")
        assert heard.headers["grpc-message"].isascii()
        assert "é%" in heard.message

    def test_a_message_byte_by_byte(self, raw: Any) -> None:
        client = raw()
        client.call(1, STATUS)
        for byte in message(ASK):
            client.say(frame(DATA, 0, 1, bytes((byte,))))
        client.say(frame(DATA, END_STREAM, 1))
        assert client.answer(1).status == OK

    def test_frames_byte_by_byte(self, raw: Any) -> None:
        client = raw(says_hello=False)
        said = raw_http2.PREFACE + frame(raw_http2.SETTINGS)
        said += frame(HEADERS, END_HEADERS, 1, client.block(STATUS))
        for byte in said + frame(DATA, END_STREAM, 1, message(ASK)):
            client.say(bytes((byte,)))
        assert client.answer(1).status == OK

    def test_padding_and_priority(self, raw: Any) -> None:
        client = raw()
        block = b"\3" + struct.pack(">IB", 0, 7) + client.block(STATUS) + b"\0\0\0"
        client.say(frame(HEADERS, END_HEADERS | 0x8 | 0x20, 1, block))
        client.say(frame(DATA, 0x8, 1, b"\2" + message(ASK)[:4] + b"\0\0"))
        client.say(frame(DATA, 0x8, 1, b"\4" + b"\0\0\0\0"))
        client.say(frame(DATA, END_STREAM | 0x8, 1, b"\2" + message(ASK)[4:] + b"\0\0"))
        assert client.answer(1).status == OK

    def test_headers_in_many_frames_and_trailers(self, raw: Any) -> None:
        client = raw()
        block = client.block(STATUS)
        client.say(frame(HEADERS, 0, 1, block[:3]))
        client.say(frame(CONTINUATION, 0, 1, block[3:20]))
        client.say(frame(CONTINUATION, END_HEADERS, 1, block[20:]))
        client.say(frame(DATA, 0, 1, message(ASK)))
        client.say(frame(HEADERS, END_HEADERS | END_STREAM, 1, client.encoder.encode([("a", "b")])))
        assert client.answer(1).status == OK

    def test_an_answer_waits_for_the_window(self, raw: Any) -> None:
        client = raw(says_hello=False)
        setting = struct.pack(">HI", 4, 3)
        client.say(raw_http2.PREFACE + frame(raw_http2.SETTINGS, payload=setting))
        client.call(1, STATUS, data=message(ASK))
        heard = client.streams.setdefault(1, raw_http2.Heard())
        client.listen(lambda: len(heard.data) == 3)
        client.say(frame(raw_http2.WINDOW, 0, 1, struct.pack(">I", 4)))
        client.listen(lambda: len(heard.data) == 7)
        client.say(frame(raw_http2.SETTINGS, payload=struct.pack(">HI", 4, 1000)))
        assert client.answer(1).status == OK
        assert struct.unpack_from(">BI", heard.data) == (0, len(heard.data) - 5)

    def test_a_large_answer_goes_on_as_far_as_a_window_reaches(
        self, raw: Any, request_of: Any
    ) -> None:
        """One WINDOW_UPDATE for all of it, and then no word more."""
        values = np.zeros(500_000, np.float32), DType.FLOAT32
        client = raw()
        client.say(frame(raw_http2.WINDOW, 0, 0, struct.pack(">I", 2**30)))
        client.call(1, PREDICT)
        request = request_of("identity_float32", x=values)
        client.send_body(1, message(request.SerializeToString()))
        heard = client.streams[1]
        client.listen(lambda: len(heard.data) == 65535)
        client.say(frame(raw_http2.WINDOW, 0, 1, struct.pack(">I", 2**30)))
        assert client.answer(1).status == OK
        assert struct.unpack_from(">BI", heard.data) == (0, len(heard.data) - 5)

    def test_a_small_window_of_the_connection_serves_answers_in_turn(
        self, raw: Any, request_of: Any
    ) -> None:
        client = raw(says_hello=False)
        hello = frame(raw_http2.SETTINGS, payload=struct.pack(">HI", 4, 2**30))
        client.say(raw_http2.PREFACE + hello)
        request = request_of("identity_float64", x=(np.zeros(100_000), DType.FLOAT64))
        for stream in (1, 3):
            client.call(stream, PREDICT)
            client.send_body(stream, message(request.SerializeToString()))
            heard = client.streams[stream]
            client.listen(lambda heard=heard: bool(heard.headers))
        assert len(client.streams[3].data) == 0, "the window went to the first"
        for number in range(10):
            client.say(frame(raw_http2.WINDOW, 0, 0, struct.pack(">I", 10_000)))
            client.say(frame(PING, 0, 0, bytes(8)))
            client.listen(lambda number=number: len(client.pings) > number)
        assert len(client.streams[3].data) == 50_000

    def test_metadata_in_base64(self, raw: Any) -> None:
        for value in ("AAEC", "AAE", "AAE=", "AAEC,AAE=", ""):
            assert asked(raw, STATUS, ("a-bin", value)).status == OK
        assert asked(raw, STATUS, ("a-bin", "!")).status == INVALID_ARGUMENT

    def test_a_ping_is_answered(self, raw: Any) -> None:
        client = raw()
        client.say(frame(PING, 0, 0, b"abcdefgh"))
        client.listen(lambda: bool(client.pings))
        assert client.pings == [(1, b"abcdefgh")]

    def test_an_unknown_frame_is_ignored(self, raw: Any) -> None:
        client = raw()
        client.say(frame(77, 0xFF, 0, bytes(1000)) + frame(200, 0, 5))
        client.call(1, STATUS, data=message(ASK))
        assert client.answer(1).status == OK


class TestRefusals:
    def test_another_content_type(self, raw: Any) -> None:
        for value in ("application/json", "application/grpcx", ""):
            heard = asked(raw, STATUS, ("content-type", value))
            assert heard.headers[":status"] == "415"
        for value in ("application/grpc+proto", "application/grpc;charset=utf-8"):
            assert asked(raw, STATUS, ("content-type", value)).status == OK

    def test_another_method_of_http(self, raw: Any) -> None:
        assert asked(raw, STATUS, (":method", "GET")).headers[":status"] == "405"

    @pytest.mark.parametrize("path", ["/no.such.Service/Method", "/x", "*", STATUS + "x"])
    def test_an_unknown_method(self, raw: Any, path: str) -> None:
        assert asked(raw, path).status == UNIMPLEMENTED

    @pytest.mark.parametrize("value", ["", "1", "m", "123456789m", "-1S", "1.5S", "1s", "1 S"])
    def test_a_timeout_that_is_none(self, raw: Any, value: str) -> None:
        heard = asked(raw, STATUS, ("grpc-timeout", value))
        assert (heard.status, "grpc-timeout" in heard.message) == (INVALID_ARGUMENT, True)

    @pytest.mark.parametrize("value", ["1H", "1M", "10S", "9999m", "99999999u", "99999999H"])
    def test_every_unit_of_a_timeout(self, raw: Any, value: str) -> None:
        assert asked(raw, STATUS, ("grpc-timeout", value)).status == OK

    @pytest.mark.parametrize("value", ["0S", "1n", "100u", "20m"])
    def test_a_timeout_that_passes(self, raw: Any, value: str) -> None:
        client = raw()
        client.call(1, STATUS, [("grpc-timeout", value)])  # its message never comes
        assert client.answer(1).status == DEADLINE_EXCEEDED

    def test_no_message(self, raw: Any) -> None:
        heard = asked(raw, data=b"")
        assert (heard.status, "no message" in heard.message) == (UNIMPLEMENTED, True)

    def test_headers_that_end_the_call(self, raw: Any) -> None:
        client = raw()
        client.say(frame(HEADERS, END_HEADERS | END_STREAM, 1, client.block(STATUS)))
        assert client.answer(1).status == UNIMPLEMENTED

    def test_two_messages(self, raw: Any) -> None:
        heard = asked(raw, data=message(ASK) * 2)
        assert (heard.status, "several messages" in heard.message) == (UNIMPLEMENTED, True)

    def test_half_a_message(self, raw: Any) -> None:
        for size in (3, 5, 7):
            assert asked(raw, data=message(ASK)[:size]).status == INTERNAL

    def test_a_message_that_would_be_too_large_is_refused_by_its_length(self, raw: Any) -> None:
        client = raw()
        client.call(1, PREDICT)
        client.say(frame(DATA, 0, 1, struct.pack(">BI", 0, 2**32 - 1)))
        heard = client.answer(1)
        assert heard.status == RESOURCE_EXHAUSTED
        assert "received message larger than max (4294967295 vs. 67108864)" in heard.message
        assert "--max-request-bytes" in heard.message
        assert heard.reset == 0

    def test_too_much_metadata(self, raw: Any) -> None:
        for value in ("x" * 17_000, "~" * 9_000):  # the second one's frame has over 16 KiB
            heard = asked(raw, STATUS, ("a", value), ("b", value))
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
    def test_what_is_taken(self, raw: Any, coding: str) -> None:
        pack = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}[coding]
        body = message(pack(ASK), flag=int(coding != "identity"))
        assert asked(raw, STATUS, ("grpc-encoding", coding), data=body).status == OK

    def test_what_is_not(self, raw: Any) -> None:
        heard = asked(raw, STATUS, ("grpc-encoding", "zstd"), data=message(b"x", flag=1))
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
    def test_damaged(self, raw: Any, data: bytes) -> None:
        heard = asked(raw, STATUS, ("grpc-encoding", "gzip"), data=message(data, flag=1))
        assert heard.status == INTERNAL

    def test_compressed_without_saying_how(self, raw: Any) -> None:
        assert asked(raw, data=message(gzip.compress(ASK), flag=1)).status == INTERNAL
        assert asked(raw, data=message(ASK, flag=2)).status == INTERNAL

    def test_a_bomb(self, raw: Any) -> None:
        bomb = gzip.compress(bytes(100 * 2**20))
        heard = asked(raw, PREDICT, ("grpc-encoding", "gzip"), data=message(bomb[:60000], flag=1))
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


class TestFaults:
    """What ends a connection, with the code that says why."""

    def test_a_setting_that_makes_a_window_too_wide(self, raw: Any) -> None:
        client = raw()
        client.call(1, STATUS)
        client.say(frame(raw_http2.WINDOW, 0, 1, struct.pack(">I", 2**31 - 1 - 65535)))
        client.say(frame(raw_http2.SETTINGS, payload=struct.pack(">HI", 4, 65536)))
        assert client.end()[0] == FLOW_CONTROL_ERROR

    @pytest.mark.parametrize(
        ("said", "code"),
        [
            (frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
            (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
            (frame(HEADERS, END_HEADERS, 2, b"\x82"), PROTOCOL_ERROR),
            (frame(HEADERS, END_HEADERS, 0, b"\x82"), PROTOCOL_ERROR),
            (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
            (frame(HEADERS, END_HEADERS, 1, b"\xbf"), COMPRESSION_ERROR),
            (frame(HEADERS, END_HEADERS | 0x8, 1, b"\x09x"), PROTOCOL_ERROR),
            (frame(DATA, 0x8, 1, b"\x09x"), PROTOCOL_ERROR),
            (frame(HEADERS, 0, 1, b"\x82") + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
            (frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, 4, 3), PROTOCOL_ERROR),
            (frame(HEADERS, 0, 1, b"\x82") + frame(DATA, 4, 1, b"x"), PROTOCOL_ERROR),
            (frame(CONTINUATION, END_HEADERS, 1, b"\x82"), PROTOCOL_ERROR),
            (frame(PING, 0, 0, b"x"), FRAME_SIZE_ERROR),
            (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
            (frame(RESET, 0, 1, bytes(4)), PROTOCOL_ERROR),
            (frame(RESET, 0, 0, bytes(4)), PROTOCOL_ERROR),
            (frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
            (frame(raw_http2.SETTINGS, 0, 0, b"x"), FRAME_SIZE_ERROR),
            (frame(raw_http2.SETTINGS, 1, 0, bytes(6)), FRAME_SIZE_ERROR),
            (frame(raw_http2.SETTINGS, 0, 1), PROTOCOL_ERROR),
            (frame(raw_http2.SETTINGS, 0, 0, struct.pack(">HI", 2, 2)), PROTOCOL_ERROR),
            (frame(raw_http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31)), FLOW_CONTROL_ERROR),
            (frame(raw_http2.SETTINGS, 0, 0, struct.pack(">HI", 5, 5)), PROTOCOL_ERROR),
            (frame(raw_http2.WINDOW, 0, 0, bytes(4)), PROTOCOL_ERROR),
            (frame(raw_http2.WINDOW, 0, 1, bytes(3) + b"\1"), PROTOCOL_ERROR),
            (frame(raw_http2.WINDOW, 0, 0, b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR),
            (frame(5, 0, 1, bytes(4)), PROTOCOL_ERROR),
            (b"\xff\xff\xff" + frame(DATA)[3:], FRAME_SIZE_ERROR),
            (b"\xff\xff\xff" + frame(HEADERS)[3:], FRAME_SIZE_ERROR),
        ],
    )
    def test_a_frame_that_is_wrong(self, raw: Any, said: bytes, code: int) -> None:
        client = raw()
        client.say(said)
        assert client.end()[0] == code

    def test_what_is_not_http2(self, raw: Any) -> None:
        for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 24, b"PRI * HTTP/2.0\r\n\r\nXX"):
            client = raw(says_hello=False)
            client.say(said)
            assert client.end()[0] == PROTOCOL_ERROR

    def test_no_settings(self, raw: Any) -> None:
        client = raw(says_hello=False)
        client.say(raw_http2.PREFACE + frame(PING, 0, 0, bytes(8)))
        assert client.end()[0] == PROTOCOL_ERROR

    def test_a_stream_that_is_used_again(self, raw: Any) -> None:
        client = raw()
        client.call(1, STATUS, data=message(ASK))
        assert client.answer(1).status == OK
        client.call(1, STATUS, data=message(ASK))
        assert client.end()[0] == STREAM_CLOSED

    def test_headers_twice_reset_the_stream(self, raw: Any) -> None:
        client = raw()
        client.call(1, STATUS)
        client.call(1, STATUS)
        assert client.answer(1).reset == PROTOCOL_ERROR
        client.call(3, STATUS, data=message(ASK))
        assert client.answer(3).status == OK

    def test_data_after_the_end(self, raw: Any) -> None:
        client = raw()
        client.say(frame(raw_http2.SETTINGS, payload=struct.pack(">HI", 4, 0)))
        client.call(1, STATUS, data=message(ASK))  # its answer waits for a window
        client.say(frame(DATA, 0, 1, b"x"))
        assert client.end()[0] == STREAM_CLOSED

    def test_more_than_the_window(self, raw: Any) -> None:
        client = raw()
        client.call(1, STATUS)
        client.say(frame(DATA, 0, 1, struct.pack(">BI", 0, 65531) + bytes(65530)))
        client.say(frame(DATA, 0, 1, b"xx"))  # one is missing, and one is granted
        assert client.end()[0] == FLOW_CONTROL_ERROR


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
        server = start()
        slow = request_of("slow", seconds=(np.array([5.0], np.float32), DType.FLOAT32))
        began = time.monotonic()
        call = predict_on(server, slow, timeout=0.3)
        assert call.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began < 4


class TestClients:
    """Whole clients; Triton's and TensorFlow Serving's own have their files."""

    def test_grpc_aio(self, server: Any) -> None:
        async def ask() -> list[bytes]:
            async with grpc.aio.insecure_channel(server.grpc) as channel:
                method = channel.unary_unary(STATUS)
                return await asyncio.gather(*(method(ASK, timeout=20) for _ in range(200)))

        assert len(set(asyncio.run(ask()))) == 1

    def test_many_at_once_on_one_channel(self, server: Any, channel_to: Any) -> None:
        method = channel_to(server).unary_unary(STATUS)
        calls = [method.future(ASK, timeout=60) for _ in range(3000)]
        assert all(call.result() for call in calls)

    def test_watching_the_health(self, server: Any, channel_to: Any) -> None:
        stub = health_pb2_grpc.HealthStub(channel_to(server))
        known = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(known).status == health_pb2.HealthCheckResponse.SERVING
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="x"), timeout=20)
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        known.cancel()
        unknown.cancel()

    @pytest.mark.parametrize("version", ["v1", "v1alpha"])
    def test_reflection(self, server: Any, channel_to: Any, version: str) -> None:
        ask = channel_to(server).stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        service = f"grpc.reflection.{version}.ServerReflection"
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=service),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Name"),
            reflection_pb2.ServerReflectionRequest(file_by_filename="no/such.proto"),
            reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="x"),
            reflection_pb2.ServerReflectionRequest(
                all_extension_numbers_of_type="tensorflow.serving.PredictRequest"
            ),
            reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="tensorflow.serving.PredictRequest"
            ),
            reflection_pb2.ServerReflectionRequest(),
        ]
        answers = list(ask(iter(asked), timeout=20))
        assert [answer.original_request for answer in answers] == asked
        assert service in {item.name for item in answers[0].list_services_response.service}
        pool = DescriptorPool()
        files = answers[1].file_descriptor_response.file_descriptor_proto
        for file in reversed(files):
            pool.AddSerializedFile(file)
        assert pool.FindServiceByName(service).methods_by_name
        codes = [answer.error_response.error_code for answer in answers]
        assert codes == [0, 0, 5, 5, 5, 0, 0, INVALID_ARGUMENT]
        assert len(answers[6].file_descriptor_response.file_descriptor_proto) > 1


def test_the_server_does_without_grpcs_library() -> None:
    """Its threads, its memory and 0.1 s of its start are for clients."""
    code = "import sys, mlserve.server.app; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
