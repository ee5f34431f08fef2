"""CPU time of mlserve's REST client for one call, with one caller and with many.

The server is a process of its own that gives each request the same answer at once, so that the time
is the client's: encoding, HTTP, the connections, reading. Small: three numbers in JSON. Large: a
body of 64 kB. Prints the milliseconds of CPU a call, the median of the rounds, and the calls a
second; to compare two versions, run it in turn in the environment of each.

    python benchmarks/client_calls.py [--calls 3000] [--rounds 5] [--callers 1 64]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time

from mlserve import AsyncClient

SMALL, LARGE = b"\xff\xd8\xff", bytes(48_000)  # in base64 it is a third longer
_ANSWER = json.dumps({"outputs": {"labels": [["sorrel"]], "scores": [[1.0]]}}).encode()
_STATUS = json.dumps(
    {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK"}}
        ]
    }
).encode()


class _Canned(asyncio.Protocol):
    """A server's connection: every request whole, every answer the same."""

    def __init__(self) -> None:
        self._came = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._came += data
        while (end := self._came.find(b"\r\n\r\n")) >= 0:
            found = re.search(rb"content-length: *(\d+)", bytes(self._came[:end]).lower())
            size = end + 4 + (int(found[1]) if found else 0)
            if len(self._came) < size:
                return
            body = _ANSWER if self._came.startswith(b"POST") else _STATUS
            del self._came[:size]
            head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver: canned\r\n"
            self._transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Canned, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _round(
    client: AsyncClient, image: bytes, callers: int, calls: int
) -> tuple[float, float]:
    """Return milliseconds of CPU a call, and calls a second."""
    left = iter(range(calls))

    async def one_after_the_other() -> None:
        for _ in left:
            await client.predict(image, timeout=30)

    began, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(one_after_the_other() for _ in range(callers)))
    return (time.process_time() - cpu) * 1000 / calls, calls / (time.monotonic() - began)


async def _measure(endpoint: str, options: argparse.Namespace) -> None:
    for name, image in (("small", SMALL), ("64 kB", LARGE)):
        for callers in options.callers:
            async with AsyncClient(endpoint, model="m", api="tfs") as client:
                await _round(client, image, callers, 4 * callers)
                rounds = [
                    await _round(client, image, callers, options.calls)
                    for _ in range(options.rounds)
                ]
            cpu, rate = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"{name:6} {callers:4} callers  {cpu:6.3f} ms of CPU a call  {rate:7.0f} calls/s")


def main() -> None:
    """Measure, or serve with the word `serve`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 64])
    parser.add_argument("serve", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(_serve())
        return
    with subprocess.Popen(
        [sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            asyncio.run(_measure(f"http://127.0.0.1:{port}", options))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
