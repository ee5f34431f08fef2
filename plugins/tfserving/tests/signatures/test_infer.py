"""`Client.infer` with SavedModels: signatures of TensorFlow 1 and 2, on every path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve import Client, InvalidInput

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]


@pytest.fixture(params=[(api, way) for api in ("tfs", "oip") for way in ("grpc", "rest")], ids=str)
def ask(request: pytest.FixtureRequest, server: Any, ready: None) -> Any:
    """`ask(model, inputs, ...)` is what `infer` returns, over one of the paths."""
    api, protocol = request.param
    endpoint = server.grpc if protocol == "grpc" else f"http://{server.rest}"

    def infer(model: str, inputs: Any, **options: Any) -> Any:
        with Client(endpoint, model=model, api=api) as client:
            return client.infer(inputs, timeout=60, **options)

    infer.path = request.param  # type: ignore[attr-defined]
    return infer


def test_a_default_value_is_the_models(ask: Any) -> None:
    found = ask("new", {"a": [1.0, 2.5]})
    assert (found["y"].tolist(), found["y"].dtype) == ([2.0, 5.0], np.float32)
    assert ask("new", {"a": [1.0], "b": 3})["y"].tolist() == [3.0]
    with pytest.raises(InvalidInput, match=r"'b' has 1 dimensions, \[1\]; the model takes 0"):
        ask("new", {"a": [1.0], "b": [3]})
    with pytest.raises(InvalidInput, match="needs an input that is missing: 'a'"):
        ask("new", {"b": 3})
    assert ask("new", {}, signature="greeting")["text"].tolist() == [b"hello you", b"hello all"]
    found = ask("new", {"name": ["Ann", "é"]}, signature="greeting")
    assert found["text"].tolist() == [b"hello Ann", "hello é".encode()]


def test_signatures_of_tensorflow_1(ask: Any) -> None:
    assert ask("half_plus_two", {"x": [[2.0], [5.0]]})["y"].tolist() == [[3.0], [4.5]]
    assert ask("half_plus_two", {"x": [2.0]})["y"].tolist() == [3.0]  # of any rank
    assert ask("half_plus_two", {}, signature="asset")["text"].tolist() == b"from an asset\n"
    assert ask("odd", {})["weight"].tolist() == [2.5, 3.5]
    found = ask("odd", {"key": ["a", "z", "b"]}, signature="looked_up")["value"]
    assert (found.tolist(), found.dtype) == ([1, -1, 2], np.int64)
    assert ask("odd", {"x": [[1, 2]]}, signature="shapeless")["y"].tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize("dtype", ["string", "bool", "float16", "bfloat16", "quint8", "qint32"])
def test_types_as_tensorflow_has_them(ask: Any, dtype: str) -> None:
    values: dict[str, Any] = {
        "string": [b"\xff\0", b""],
        "bool": [True, False],
        "float16": [0.1, float("nan")],
        "bfloat16": [1.5, float("-inf")],
        "quint8": [0, 255],
        "qint32": [-(2**31), 2**31 - 1],
    }
    if ask.path[0] == "oip" and dtype.startswith("q"):
        with pytest.raises(InvalidInput, match="no type"):
            ask("odd", {"x": values[dtype]}, signature=f"same_{dtype}")
        return
    found = ask("odd", {"x": values[dtype]}, signature=f"same_{dtype}")["y"]
    wanted = np.array(values[dtype], found.dtype)
    if dtype == "string":
        assert found.tolist() == values[dtype]
    else:
        np.testing.assert_array_equal(found.astype(np.float64), wanted.astype(np.float64))
