"""A client without a model's name asks the server which one it serves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlserve import AsyncClient
from mlserve.client import Client
from mlserve.errors import AccessDenied, InferenceFailed, Unavailable, UsageError
from tests.harness.foreign_oip import OipModel

IMAGE = b"\xff\xd8\xff an image"
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])


@pytest.mark.parametrize(
    "index",
    [
        [("stranger", "READY")],
        [("stranger", "READY"), ("stranger", "READY")],
        [("other", "UNAVAILABLE"), ("stranger", "READY")],
        [("other", ""), ("stranger", "READY")],
        [("stranger", "UNAVAILABLE")],
    ],
)
def test_the_only_model_is_asked(serve: Any, index: list[tuple[str, str]]) -> None:
    model = OipModel(index=index)
    with Client(serve(model)) as client:
        before = client.model
        found = client.predict(IMAGE, timeout=20)

        assert (before, client.model, found.model, found.label) == (
            *(None, "stranger", "stranger", "ox"),
        )


def test_the_index_is_asked_for_once(serve: Any) -> None:
    model = OipModel(index=[("stranger", "READY")])
    with Client(serve(model)) as client:
        client.metadata(timeout=20)
        client.predict(IMAGE, timeout=20)
        client.predict(IMAGE, timeout=20)

    assert model.calls.count("RepositoryIndex") == 1


def test_a_model_that_is_named_costs_no_look_at_the_index(serve: Any) -> None:
    model = OipModel(index=[("stranger", "READY")])
    with Client(serve(model), model="stranger") as client:
        client.predict(IMAGE, timeout=20)

    assert "RepositoryIndex" not in model.calls


def test_the_asynchronous_client_asks_too(serve: Any) -> None:
    async def ask(endpoint: str) -> str:
        async with AsyncClient(endpoint) as client:
            return (await client.predict(IMAGE, timeout=20)).model

    assert asyncio.run(ask(serve(OipModel(index=[("stranger", "READY")])))) == "stranger"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([("a", "READY"), ("b", "READY")], "serves 2 models: a, b"),
        ([("a", ""), ("b", "")], "serves 2 models: a, b"),
        ([(f"m{n:02}", "READY") for n in range(12)], "12 models: m00, .*, m09 and 2 more"),
        ([("a\n\x1b[31m", "READY"), ("b", "READY")], r"serves 2 models: a \\x1b\[31m, b"),
        ([], "serves no model"),
        (None, "does not list the models it serves"),
    ],
)
def test_a_server_without_one_model_leaves_the_choice_to_the_caller(
    serve: Any, index: list[tuple[str, str]] | None, message: str
) -> None:
    with Client(serve(OipModel(index=index))) as client, pytest.raises(UsageError) as caught:
        client.predict(IMAGE, timeout=20)

    assert caught.match(message)
    assert caught.value.hint == "name the model: model=NAME"


def test_the_list_of_kserve_is_read(over_rest: Any) -> None:
    model = OipModel(v1=(200, b'{"models": ["stranger"]}'))
    with Client(over_rest(model), api="oip") as client:
        assert client.predict(IMAGE, timeout=20).model == "stranger"


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b'{"models": "stranger"}', b'{"models": [1]}', b"[" * 9000]
)
def test_what_is_not_a_model_server_is_told_as_such(over_rest: Any, body: bytes) -> None:
    with (
        Client(over_rest(OipModel(v1=(200, body)))) as client,
        pytest.raises(InferenceFailed) as caught,
    ):
        client.predict(IMAGE, timeout=20)

    assert caught.match("^the answer of .* is not (JSON|an index of models): ")
    assert (caught.value.hint or "").startswith("is this a model server?")


def test_an_absent_server_is_an_absent_server() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable, match="no server answers"):
        client.status(timeout=20)


@PROTOCOLS
def test_a_server_that_lets_nobody_in_is_not_one_without_an_index(
    start_echo: Any, tmp_path: Any, protocol: str
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-sixteen-or-more")
    token.chmod(0o600)
    endpoint = start_echo("--token-file", str(token)).endpoint(protocol)
    with Client(endpoint) as client, pytest.raises(AccessDenied):
        client.predict(IMAGE, timeout=20)


@PROTOCOLS
def test_our_own_server_tells(echo: Any, protocol: str) -> None:
    with Client(echo.endpoint(protocol)) as client:
        found = client.predict(IMAGE, timeout=20)

    assert (found.model, found.label) == ("inception_v3", "sorrel")
