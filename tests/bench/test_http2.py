"""Header blocks of HTTP/2, and gRPC calls to a real server."""

from __future__ import annotations

import asyncio

import hpack
import pytest

from mlserve.bench.http2 import header_block, read_block
from mlserve.bench.load import ClosedLoop, OpenLoop, Window, run_load
from mlserve.bench.questions import InputsQuestion, target_for
from mlserve.bench.tally import EXPIRED, LEFT
from mlserve.client.endpoint import Api, Connection
from mlserve.deadline import Deadline
from tests.harness.server import EchoServer

FIELDS = [(":status", "200"), ("grpc-status", "0"), ("a", "b" * 300), ("x", "é"), ("empty", "")]


@pytest.mark.parametrize("huffman", [True, False])
def test_a_block_without_a_table_is_read(huffman: bool) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    block = encoder.encode(FIELDS, huffman=huffman)
    assert read_block(block) == {name.encode(): value.encode() for name, value in FIELDS}


def test_a_block_is_read_by_others_and_leaves_their_table_alone() -> None:
    decoder = hpack.Decoder()
    for _ in range(2):
        assert [tuple(field) for field in decoder.decode(header_block(FIELDS))] == FIELDS
    assert not decoder.header_table.dynamic_entries


@pytest.mark.parametrize("block", [b"\xbe", b"\x80", b"\x40", b"\x00\x05ab"])
def test_a_damaged_block_is_refused_or_harmless(block: bytes) -> None:
    try:
        assert isinstance(read_block(block), dict)
    except (ValueError, IndexError):
        return


@pytest.mark.server
def test_messages_larger_than_the_windows_arrive(echo: EchoServer) -> None:
    text = "x" * 300_000  # HTTP/2's first window is 65,535 bytes
    question = InputsQuestion(lambda _: {"x": [text]}, "identity_bytes")
    connection = Connection.to(echo.endpoint("grpc"))
    target = asyncio.run(target_for("t", connection, question, 20.0, Deadline.after(20)))
    assert len(target.requests[0].body) > 300_000
    tally = run_load(target, ClosedLoop(2), Window(1.0, 0.0, 20.0))
    assert tally.in_time == tally.requests > 2


@pytest.mark.server
@pytest.mark.parametrize("api", ["tfs", "oip"])
def test_callers_that_leave_cancel_their_calls(echo: EchoServer, api: Api) -> None:
    question = InputsQuestion(lambda _: {"seconds": [0.6]}, "slow")
    connection = Connection.to(echo.endpoint("grpc"), api=api)
    asked = target_for("t", connection, question, 0.3, Deadline.after(20), is_told=False)
    target = asyncio.run(asked).left_after((0.3,))
    assert b"timeout" not in target.requests[0].head + target.requests[0].body
    tally = run_load(target, OpenLoop(5.0), Window(1.0, 0.0, 0.3, seed=3))
    assert tally.requests == tally.count(LEFT) + sum(tally.refused.values()) > 0
    assert not tally.failed


@pytest.mark.server
def test_a_call_out_of_time_leaves_the_connection_usable(echo: EchoServer) -> None:
    question = InputsQuestion(lambda _: {"seconds": [0.6]}, "slow")
    connection = Connection.to(echo.endpoint("grpc"))
    target = asyncio.run(target_for("t", connection, question, 0.3, Deadline.after(20)))
    tally = run_load(target, OpenLoop(5.0), Window(1.0, 0.0, 0.3, seed=3))
    assert tally.in_time == 0
    assert tally.requests == tally.count(EXPIRED) + sum(tally.refused.values()) > 0
    assert not tally.failed
