"""A gRPC request is read within its deadline, and its memory is counted before it is taken."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, InvalidInput, Overloaded
from mlserve.server.body_memory import BodyMemory, hold
from mlserve.server.codec.proto_reader import on_thread, read_message
from mlserve.wire.proto.framework_pb2 import TensorProto
from mlserve.wire.proto.inference_pb2 import ModelInferRequest


def read(data: bytes, memory: BodyMemory | None = None, timeout: float = 30) -> TensorProto:
    async def within() -> TensorProto:
        if memory is not None:
            body = memory.open(lambda: None)
            body.take(len(data))
            hold(body)
        return await read_message(TensorProto, data, Deadline.at_most(timeout, 30))

    return asyncio.run(within())


@pytest.mark.parametrize("count", [1, 300_000])
def test_what_is_read_is_what_was_sent(count: int) -> None:
    """On the event loop where it is little, on a thread where it is much."""
    sent = TensorProto(string_val=[b"ab"] * count, dtype="DT_STRING")
    assert read(sent.SerializeToString()) == sent


def test_the_memory_of_a_message_is_counted_with_its_bytes() -> None:
    data = TensorProto(string_val=[b"ab"] * 1000).SerializeToString()
    memory = BodyMemory(10**6)
    read(data, memory)
    assert 1000 * 96 < memory.held < 1000 * 110


def test_a_message_without_room_is_not_made() -> None:
    data = TensorProto(string_val=[b"ab"] * 1000).SerializeToString()
    memory = BodyMemory(200_000)
    memory.open(lambda: None).take(150_000)
    with pytest.raises(Overloaded):
        read(data, memory)


def test_a_deadline_that_passes_ends_the_walk() -> None:
    with pytest.raises(DeadlineExceeded):
        read(b"\xf8\x0f\1" * 2**20, timeout=0.02)


def test_what_is_not_utf_8_is_not_a_message() -> None:
    async def ask() -> None:
        await read_message(ModelInferRequest, b"\x1a\x03\xed\xa0\x80", Deadline.at_most(5, 30))

    with pytest.raises(InvalidInput, match="not a valid inference"):
        asyncio.run(ask())


def test_what_a_thread_reads_is_counted_until_it_ends() -> None:
    """Nobody can stop it: the call's deadline passes, and the bytes are still there."""
    memory, may_end = BodyMemory(1000), threading.Event()

    async def check() -> None:
        with memory.open(lambda: None) as body:
            body.take(500)
            hold(body)
            with pytest.raises(DeadlineExceeded):
                await on_thread(may_end.wait, Deadline.at_most(0.1, 30))
        assert memory.held == 500
        may_end.set()
        while memory.held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(check(), 20))
