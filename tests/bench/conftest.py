"""HTTP servers in a thread, whose answers and pauses a test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Answer = Callable[[int], Awaitable[bytes]]
"""Returns the whole answer to the request of that number, from 0."""
_STEPS_TO_CONNECT = 10
"""Steps of the event loop in which what was accepted at last becomes a connection."""
ServeHttp = Callable[[Answer], str]


async def _answering(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    answer: Answer,
    count: Iterator[int],
) -> None:
    """Answer what comes on a connection, until it ends."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            said = await answer(next(count))
            writer.write(said)
            is_last = b"onnection: close" in said or b"HTTP/1.0" in said
            if not said or is_last or b"ength" not in said:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client hung up
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@contextmanager
def _serving(answer: Answer) -> Iterator[str]:
    loop, ready = asyncio.new_event_loop(), threading.Event()
    connections: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
    servers: list[asyncio.Server] = []
    count = iter(range(10**9))

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Here and not in the task: one that is cancelled before its first step does nothing.
        connections[writer] = loop.create_task(_answering(reader, writer, answer, count))

    async def serve() -> None:
        servers.append(await asyncio.start_server(accepted, "127.0.0.1", 0, backlog=512))
        ready.set()

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(serve(), loop)
    ready.wait()
    try:
        yield f"http://127.0.0.1:{servers[0].sockets[0].getsockname()[1]}/"
    finally:

        async def cancel() -> None:
            # asyncio leaves open what it has accepted when the server is closed before that is a
            # connection: so accepting ends first.
            for listener in servers[0].sockets:
                loop.remove_reader(listener.fileno())
            for _ in range(_STEPS_TO_CONNECT):
                await asyncio.sleep(0)
            servers[0].close()
            for writer, task in connections.items():
                task.cancel()
                writer.transport.abort()
            await asyncio.gather(*connections.values(), return_exceptions=True)
            await asyncio.sleep(0)  # the transports end

        asyncio.run_coroutine_threadsafe(cancel(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def serve_http() -> Iterator[ServeHttp]:
    """`serve_http(answer)` is the URL of a server that answers so."""
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(_serving(answer))
