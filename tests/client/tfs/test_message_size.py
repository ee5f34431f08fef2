"""RESOURCE_EXHAUSTED is also what a message that is too large is refused with."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from mlserve.client import Client
from mlserve.errors import InferenceFailed, InputTooLarge
from mlserve.tensors import DType, Signature, TensorSpec
from tests.harness.foreign_tfs import TfsModel

TEXT_IN = Signature(
    "top_k",
    (TensorSpec("image", DType.BYTES, (None,)),),
    (TensorSpec("out", DType.BYTES, (None,)),),
)


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
    with Client(small_server, model="m") as client, pytest.raises(InputTooLarge) as caught:
        client.predict(bytes(2000), timeout=20)

    assert f"the server at {small_server} does not take a request of this size" in str(caught.value)
    assert "raise the server's limit for received messages" in str(caught.value.hint)
    assert "--max-request-bytes" in str(caught.value.hint)
    assert caught.value.details["attempts"] == 1


@pytest.mark.parametrize("serve", ["grpc", "rest"], indirect=True)
def test_an_answer_over_the_clients_limit_is_not_read(serve: Any) -> None:
    large = TfsModel((TEXT_IN,), {"top_k": {"out": ["ox" * 100_000]}})
    endpoint = serve(large)
    with (
        Client(endpoint, model="stranger", max_answer_bytes=100_000) as client,
        pytest.raises(InferenceFailed) as caught,
    ):
        client.predict(b"1", timeout=20)

    assert caught.value.message.startswith(f"the answer of {endpoint} has more than the 100000 by")
    assert "with max_answer_bytes" in str(caught.value.hint)
    assert len(large.asked) == 1
