"""HTTP/2 as gRPC uses it (PROTOCOL-HTTP2.md of grpc/grpc), as a raw client sees it."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

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
    frame,
    message,
)

pytestmark = pytest.mark.server

STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
ASK = GetModelStatusRequest(model_spec={"name": "m"}).SerializeToString()
OK, INVALID_ARGUMENT = 0, 3
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 1, 3, 5, 6
COMPRESSION_ERROR = 9


class TestAnswers:
    def test_a_call(self, asked: Any) -> None:
        heard = asked()
        assert heard.headers[":status"] == "200"
        assert heard.headers["content-type"] == "application/grpc"
        assert heard.headers["grpc-status"] == "0"
        assert heard.headers["x-request-id"]
        assert struct.unpack_from(">BI", heard.data) == (0, len(heard.data) - 5)

    def test_an_error_has_trailers_only(self, asked: Any) -> None:
        ask = GetModelStatusRequest(model_spec={"name": "é%\n"}).SerializeToString()
        heard = asked(data=message(ask))
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

    def test_metadata_in_base64(self, asked: Any) -> None:
        for value in ("AAEC", "AAE", "AAE=", "AAEC,AAE=", ""):
            assert asked(STATUS, ("a-bin", value)).status == OK
        assert asked(STATUS, ("a-bin", "!")).status == INVALID_ARGUMENT

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
        client.say(frame(DATA, 0, 1, struct.pack(">BI", 0, 2**18 - 4) + bytes(2**18 - 5)))
        client.say(frame(DATA, 0, 1, b"xx"))  # one is missing, and one is granted
        assert client.end()[0] == FLOW_CONTROL_ERROR
