"""A raw HTTP/2 client of the gRPC port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from mlserve.wire.proto.serving_pb2 import GetModelStatusRequest
from tests.harness.raw_http2 import Heard, RawHttp2, message

_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_ASK = message(GetModelStatusRequest(model_spec={"name": "m"}).SerializeToString())


@pytest.fixture
def raw(server: Any) -> Iterator[Callable[..., RawHttp2]]:
    """Connects a raw client to the server, which answers others afterwards as before."""
    with ExitStack() as clients:
        yield lambda **how: clients.enter_context(RawHttp2(server.grpc, **how))
    with RawHttp2(server.grpc) as client:
        client.call(1, _STATUS, data=_ASK)
        assert client.answer(1).status == 0
    assert server.is_quiet()


@pytest.fixture
def asked(raw: Callable[..., RawHttp2]) -> Callable[..., Heard]:
    """Makes one call on a connection of its own: the path, more headers, and the data."""

    def ask(path: str = _STATUS, *more: Any, data: bytes = _ASK) -> Heard:
        client = raw()
        client.call(1, path, more, data=data)
        return client.answer(1)

    return ask
