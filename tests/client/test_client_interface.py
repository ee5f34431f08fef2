"""The Python API as somebody meets it who types: names, help, wrong arguments, closed clients."""

from __future__ import annotations

import ast
import asyncio
import inspect
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mlserve
from mlserve import AsyncClient, Client, Retries, Unavailable, UsageError, errors

NOWHERE = "127.0.0.1:1"
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])


def test_tab_shows_the_public_names_and_importing_them_costs_nothing() -> None:
    code = "import sys, mlserve; print(*dir(mlserve)); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, modules = (set(line.split()) for line in done.stdout.splitlines())

    assert set(mlserve.__all__) <= names
    assert not modules & {"numpy", "grpc", "httpx", "google", "typer", "mlserve.client"}


def test_every_public_error_stands_at_the_top() -> None:
    public = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.MlserveError)
    }

    assert public <= set(mlserve.__all__)
    for name in mlserve.__all__:
        assert getattr(mlserve, name) is not None
    assert mlserve.DeadlineExceeded is errors.DeadlineExceeded
    with pytest.raises(AttributeError, match="Nothing"):
        _ = mlserve.Nothing


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_help_has_words_and_an_example_of_its_own(kind: type) -> None:
    text = inspect.getdoc(kind) or ""

    assert f"{kind.__name__}(" in text
    assert "127.0.0.1:8500" in text
    assert "predict(" in text


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8, 3), np.uint8), Image.new("RGB", (8, 8)), None, 5, [b"fine"]],
    ids=["ndarray", "PIL", "None", "int", "list"],
)
def test_what_is_not_an_image_file_is_refused_with_the_way_on(image: Any) -> None:
    with Client(NOWHERE) as client, pytest.raises(UsageError, match="is not an image f") as caught:
        client.predict(image)

    assert type(image).__name__ in caught.value.message
    assert "save(buffer" in str(caught.value.hint)


def test_the_way_on_for_pixels_is_right(echo: Any) -> None:
    import io

    import PIL.Image

    with Client(NOWHERE) as client, pytest.raises(UsageError) as caught:
        client.predict(np.zeros((8, 8, 3), np.uint8))  # type: ignore[arg-type]
    code = str(caught.value.hint).removeprefix("encode pixels as a file first: ").split("; then")[0]
    scope = {"io": io, "PIL": PIL, "pixels": np.zeros((8, 8, 3), np.uint8)}
    exec(code, scope)
    with Client(echo.grpc) as client:
        assert client.predict(scope["buffer"].getvalue(), timeout=20).label == "sorrel"


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_kinds_of_bytes_are_bytes(echo: Any, kind: Any) -> None:
    with Client(echo.grpc) as client:
        assert client.predict(kind(b"fine"), timeout=20).label == "sorrel"


def test_a_text_file_and_a_closed_file_are_named(photo: Path) -> None:
    with Client(NOWHERE) as client:
        with photo.open(encoding="latin-1") as text, pytest.raises(UsageError, match="not bytes"):
            client.predict(text)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="closed file"):
            client.predict(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", ["5", None, True, b"5", float("nan"), 0, -1])
@pytest.mark.parametrize("call", ["predict", "metadata", "status", "load"])
def test_a_timeout_is_a_number_of_seconds(timeout: Any, call: str) -> None:
    arguments = [b"fine"] if call == "predict" else []
    with Client(NOWHERE) as client, pytest.raises(UsageError, match="timeout must be") as caught:
        getattr(client, call)(*arguments, timeout=timeout)

    shown = f"{timeout:g}" if type(timeout) in (int, float) else repr(timeout)
    assert caught.value.message.endswith(f"not {shown}")
    assert caught.value.hint == "give for example timeout=5"


@pytest.mark.parametrize("timeout", [np.float32(20), np.float64(20), np.int64(20), 20])
def test_numbers_of_numpy_are_numbers(echo: Any, timeout: Any) -> None:
    with Client(echo.grpc) as client:
        assert client.predict(b"fine", timeout=timeout).label == "sorrel"


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": 8500},
        {"endpoint": Path("host")},
        {"model": Path("m")},
        {"version": "1"},
        {"token": b"s3cret"},
        {"tls": {"ca": "ca.pem"}},
        {"retries": 3},
        {"max_answer_bytes": "1"},
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_wrong_kind_of_argument_is_named(kind: Any, wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(UsageError, match=f"^{name} must be ") as caught:
        kind(**({"endpoint": NOWHERE} | wrong))

    shown = "bytes" if name == "token" else repr(value)  # a token is in no message
    assert caught.value.message.endswith(f", not {shown}")


def test_the_pause_after_many_attempts_is_a_number() -> None:
    """2.0**1024 is no float."""
    patient = Retries(max_attempts=10**6, base=0.0)
    assert patient.pause(5000, Unavailable("busy")) == 0.0
    assert Retries(max_attempts=10**6).pause(5000, Unavailable("busy")) <= 1.0


@pytest.mark.parametrize("name", ["base", "cap"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, "1", None])
def test_a_pause_between_attempts_is_a_number_of_seconds(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} must be a number") as caught:
        Retries(**{name: value})

    assert repr(value) in caught.value.message


@PROTOCOLS
def test_a_closed_client_says_so(echo: Any, protocol: str) -> None:
    with Client(echo.endpoint(protocol)) as client:
        client.predict(b"fine", timeout=20)
    client.close()
    for call in (
        lambda: client.predict(b"fine", timeout=20),
        lambda: client.metadata(timeout=20),
        lambda: client.status(timeout=20),
        lambda: client.load(timeout=20),
    ):
        with pytest.raises(UsageError, match="this client is closed"):
            call()


@PROTOCOLS
def test_a_closed_async_client_says_so(echo: Any, protocol: str) -> None:
    async def ask() -> None:
        async with AsyncClient(echo.endpoint(protocol)) as client:
            await client.predict(b"fine", timeout=20)
        await client.close()
        with pytest.raises(UsageError, match="this client is closed"):
            await client.predict(b"fine", timeout=20)
        with pytest.raises(UsageError, match="this client is closed"):
            await client.load(timeout=20)

    asyncio.run(ask())


@PROTOCOLS
def test_an_async_client_in_a_second_loop(echo: Any, protocol: str) -> None:
    client = AsyncClient(echo.endpoint(protocol))

    async def ask(*, is_last: bool) -> str:
        found = (await client.predict(b"fine", timeout=20)).label
        if is_last:
            await client.close()
        return found

    assert [asyncio.run(ask(is_last=n == 2)) for n in range(3)] == ["sorrel"] * 3


def test_what_things_look_like(echo: Any) -> None:
    with Client(echo.grpc, token="s3cret") as client:
        assert repr(client) == f"Client('{echo.grpc}', model=None)"
        found = client.predict(b"fine", timeout=20)
        assert repr(client) == f"Client('{echo.grpc}', model='inception_v3')"
    score = f"{found.scores[0].score:.4g}"
    assert repr(found) == (
        f"Prediction(label='sorrel', score={score}, model='inception_v3', version=1, "
        f"endpoint='{echo.grpc}')"
    )
    assert repr(AsyncClient("http://h:1", model="m")) == "AsyncClient('http://h:1', model='m')"
    assert repr(UsageError("no", hint="yes")) == "UsageError('no')"


def test_answers_and_errors_go_through_pickle(echo: Any) -> None:
    with Client(echo.grpc) as client:
        found = client.predict(b"fine", timeout=20)
        with pytest.raises(UsageError) as caught:
            client.predict(b"bad", timeout=20)
    again = pickle.loads(pickle.dumps(caught.value))

    assert pickle.loads(pickle.dumps(found)) == found
    assert (type(again), str(again), again.hint) == (
        type(caught.value),
        str(caught.value),
        caught.value.hint,
    )
    assert again.details == caught.value.details


_SOURCES = [
    *Path(mlserve.__file__).parent.joinpath("client").glob("*.py"),
    Path(mlserve.__file__).parent / "deadline.py",
]
_ELSEWHERE = re.compile(r"mlserve [a-z]+:? |TensorFlow Serving: |serve with ")


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: path.name)
def test_no_message_of_the_client_names_a_flag_by_hand(path: Path) -> None:
    """Those of `mlserve up` and of other servers are flags wherever they are read."""
    by_hand = [
        text
        for text in _strings(ast.parse(path.read_text()))
        if re.search(r"(^|[^-\w])--[a-z]", _ELSEWHERE.split(text)[0])
    ]

    assert not by_hand


def _strings(tree: ast.AST) -> Iterator[str]:
    """The strings of a module but for its docstrings; an f-string in pieces."""
    docs = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


@PROTOCOLS
@pytest.mark.parametrize("api", ["tfs", "oip"])
def test_our_server_says_what_served_each_answer(echo: Any, protocol: str, api: Any) -> None:
    said = "echo; unknown precision; unknown device; certificate=none"
    with Client(echo.endpoint(protocol), api=api) as client:
        assert client.predict(b"fine", timeout=20).served_by == said
        answer = client.infer({"a": [1.0], "b": [2.0]}, signature="two", timeout=20)
        assert (answer.served_by, answer.to_json()["served_by"]) == (said, said)
        assert client.metadata(timeout=20).served_by == said

    async def ask() -> str | None:
        async with AsyncClient(echo.endpoint(protocol), api=api) as client:
            return (await client.predict(b"fine", timeout=20)).served_by

    assert asyncio.run(ask()) == said
