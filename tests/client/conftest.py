"""Hand-made third-party servers, over gRPC and REST."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.harness import foreign

Serve = Callable[[foreign.Answers], str]


@pytest.fixture
def over_grpc() -> Iterator[Serve]:
    """`over_grpc(model)` is the `host:port` of a gRPC server."""
    with ExitStack() as stack:
        yield lambda answers: stack.enter_context(foreign.over_grpc(answers))


@pytest.fixture
def over_rest() -> Iterator[Serve]:
    """`over_rest(model)` is the URL of an HTTP server."""
    with ExitStack() as stack:
        yield lambda answers: stack.enter_context(foreign.over_rest(answers))


@pytest.fixture(params=["grpc", "rest"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """`serve(model)` is the endpoint of a server, once for each protocol."""
    found: Serve = request.getfixturevalue(f"over_{request.param}")
    return found
