"""RESOURCE_EXHAUSTED is also what a message that is too large is refused with."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from mlserve.client import Client
from mlserve.errors import InputTooLarge


@pytest.fixture
def small_server() -> Iterator[str]:
    """A gRPC server that takes messages of at most 1000 bytes."""
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", 1000)])
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    service = "tensorflow.serving.PredictionService"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"Predict": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_request_over_the_servers_limit_is_no_overload(small_server: str) -> None:
    with Client(small_server) as client, pytest.raises(InputTooLarge) as caught:
        client.predict(bytes(2000), timeout=20)

    assert f"the server at {small_server} does not take a request of this size" in str(caught.value)
    assert "raise the server's limit for received messages" in str(caught.value.hint)
