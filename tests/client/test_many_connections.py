"""More REST calls at once than a client has connections."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from mlserve import AsyncClient, DeadlineExceeded, MlserveError

pytestmark = pytest.mark.server

CALLS = 300


async def outcomes(endpoint: str, seconds: float, **options: Any) -> list[Any]:
    """What becomes of CALLS calls at once."""
    async with AsyncClient(endpoint, **options) as client:
        calls = [client.predict(b"fine", timeout=seconds) for _ in range(CALLS)]
        return await asyncio.gather(*calls, return_exceptions=True)


def test_all_are_answered(echo: Any) -> None:
    found = asyncio.run(outcomes(echo.endpoint("rest"), 60))
    assert not [outcome for outcome in found if isinstance(outcome, MlserveError)]


def test_all_end_at_their_deadline() -> None:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        found = asyncio.run(outcomes(endpoint, 2, model="m", api="oip"))
    assert {type(outcome) for outcome in found} == {DeadlineExceeded}
