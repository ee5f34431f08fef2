"""More calls at once over REST than the client has connections for."""

from __future__ import annotations

import asyncio
import re

from mlserve import AsyncClient

_BODY = b'{"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {}}]}'
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(
    _BODY
)
_CALLS, _AT_ONCE, _TIMEOUT = 300, 256, 20.0


async def _ask_all() -> tuple[int, list[int]]:
    """Return the most requests that were there at once, and the time that each was told, in ms.

    The first 256 are answered once all of them are there, and no other has come by then.
    """
    there, most, told = 0, 0, list[int]()
    are_there = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal there, most
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                found = re.search(rb"x-request-timeout-ms: (\d+)", head)
                assert found is not None
                told.append(int(found[1]))
                there += 1
                most = max(most, there)
                if there == _AT_ONCE:
                    asyncio.get_running_loop().call_later(0.3, are_there.set)
                await are_there.wait()
                there -= 1
                writer.write(_ANSWER + _BODY)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has hung up
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, backlog=_CALLS) as server:
        port = server.sockets[0].getsockname()[1]
        async with AsyncClient(f"http://127.0.0.1:{port}", model="m") as client:
            await asyncio.gather(*(client.status(timeout=_TIMEOUT) for _ in range(_CALLS)))
    return most, told


def test_calls_wait_for_a_connection_and_then_tell_the_time_that_is_left() -> None:
    most, told = asyncio.run(_ask_all())
    assert (most, len(told)) == (_AT_ONCE, _CALLS)
    assert (
        max(told[_AT_ONCE:]) <= 1000 * _TIMEOUT - 300
    )  # those that came later have waited so long
