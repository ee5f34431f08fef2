"""`infer` where numpy is not installed: lists in, lists out; and predict, which never needs it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.server
_ASK = """
import sys
sys.modules["numpy"] = None  # as if it were not installed
from mlserve import Client, InvalidInput

with Client(sys.argv[1], api=sys.argv[2]) as client:
    found = client.infer({"a": [1, 2.5], "b": (3, 4)}, signature="two", timeout=20)
    assert found == {"sum": [4.0, 6.5], "product": [3.0, 10.0]}, found
    assert found.to_json()["outputs"] == dict(found)

    def same(value, kind):
        found = client.infer({"x": value}, signature="identity_" + kind, timeout=20)["y"]
        assert found == value, (kind, found)

    same([[b"\\xff", "é".encode()], [b"", b"x"]], "bytes")
    same(b"scalar", "bytes")
    same([2**53 + 1, -(2**63)], "int64")
    same([0.1, float("inf")], "float64")
    same([[1.5, -0.25]], "bfloat16")
    same([[1.5, -0.25]], "float16")
    same([[True], [False]], "bool")
    same([[], []], "float32")
    same(7, "uint8")
    try:
        client.infer({"a": [None], "b": [1]}, signature="two", timeout=20)
    except InvalidInput as error:
        assert "has None at [0]" in error.message
    else:
        raise AssertionError("None was sent")
print("done")
"""
_PREDICT = """
import sys
from mlserve import Client
with Client(sys.argv[1], api=sys.argv[2]) as client:
    print(client.predict(b"fine", timeout=20).label)
print(*(name for name in ("numpy", "mlserve.client.values") if name in sys.modules))
"""
PATHS = pytest.mark.parametrize(
    ("api", "protocol"), [(api, way) for api in ("tfs", "oip") for way in ("grpc", "rest")]
)


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@PATHS
def test_lists_in_and_lists_out(echo: Any, api: str, protocol: str) -> None:
    assert run(_ASK, echo.endpoint(protocol), api) == "done\n"


@PATHS
def test_predict_imports_nothing_of_infer(echo: Any, api: str, protocol: str) -> None:
    assert run(_PREDICT, echo.endpoint(protocol), api) == "sorrel\n\n"
