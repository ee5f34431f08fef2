"""The gRPC client's connections: a server that goes and comes back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from mlserve import AsyncClient
from mlserve.client import Retries
from mlserve.client.grpc import GrpcTransport
from mlserve.errors import MlserveError, Unavailable

pytestmark = [pytest.mark.server, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def started(port: int = 0) -> tuple[Any, int]:
    """A server that knows no method, and its port."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


async def end_of(client: AsyncClient) -> MlserveError:
    with pytest.raises(MlserveError) as caught:
        await client.predict(b"x", timeout=20)
    return caught.value


async def test_a_server_that_is_back_is_found_by_the_next_attempt() -> None:
    """Although the channel waits between its own attempts."""
    server, port = started()
    once = Retries(max_attempts=1)
    async with AsyncClient(f"127.0.0.1:{port}", model="m", api="tfs", retries=once) as client:
        refused = await end_of(client)
        assert not isinstance(refused, Unavailable)
        (transport,) = client._connections._transports.values()
        assert isinstance(transport, GrpcTransport)
        channel = transport._channel
        assert channel is not None
        server.stop(None).wait()
        async with asyncio.timeout(20):
            state = channel.get_state(try_to_connect=True)
            while state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
        assert isinstance(await end_of(client), Unavailable)
        server, _ = started(port)
        assert type(await end_of(client)) is type(refused)
        server.stop(None)


async def closed_under(client: AsyncClient, begun: Callable[[], bool]) -> MlserveError:
    """Return what a call ends with whose client is closed once it has begun."""
    asked = {"seconds": np.array([1.0], np.float32)}
    call = asyncio.ensure_future(client.infer(asked, signature="slow", timeout=20))
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(begun):  # noqa: ASYNC110 - it is another process's
            await asyncio.sleep(0.01)
    await client.close()
    with pytest.raises(MlserveError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
async def test_a_call_whose_client_is_closed_fails_and_is_not_cancelled(
    echo: Any, protocol: str
) -> None:
    error = await closed_under(AsyncClient(echo.endpoint(protocol)), lambda: bool(echo.in_flight()))
    assert error.message == "this client is closed"


@pytest.mark.parametrize("scheme", ["grpc", "http"])
async def test_a_call_that_connects_when_its_client_is_closed_fails_likewise(scheme: str) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"{scheme}://127.0.0.1:{mute.getsockname()[1]}"
        client = AsyncClient(address, model="m")
        error = await closed_under(client, lambda: bool(client._connections._transports))
    assert error.message == "this client is closed"
