"""`infer` with real servers of the Open Inference Protocol, over gRPC and REST."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve.errors import InferenceFailed, InvalidInput

pytestmark = [pytest.mark.server, pytest.mark.foreign]
SERVERS = pytest.mark.parametrize("server", ["triton", "mlserver", "kserve"], indirect=True)
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
INPUTS: dict[str, Any] = {
    "d": np.array([[0.1, 1e300], [-0.0, 1 / 3]]),
    "l": np.array([[2**53 + 1, -(2**63)]]),
    "f": np.array([[0.1, -1.5]], np.float32),
    "b": np.array([[True, False]]),
    "t": np.array([["é", "a, b"]], object),
}


@SERVERS
@PROTOCOLS
def test_tensors_arrive_and_come_back(server: Any, protocol: str) -> None:
    with server.client(protocol, "tensors") as client:
        found = client.infer(INPUTS, timeout=20)

    assert client.api == "oip"
    for name, sent in INPUTS.items():
        values = [v.encode() if isinstance(v, str) else v for v in sent.reshape(-1).tolist()]
        assert (name, found[name].dtype, found[name].shape) == (name, sent.dtype, sent.shape)
        assert found[name].reshape(-1).tolist() == values


@SERVERS
@PROTOCOLS
def test_numbers_that_are_none_and_bytes_that_are_no_text(server: Any, protocol: str) -> None:
    odd = {
        **INPUTS,
        "d": np.array([[np.nan, -np.inf]]),
        "t": np.array([[b"\xff\0", b"x"]], object),
    }
    with server.client(protocol, "tensors") as client:
        if protocol == "rest" and server.name != "triton":  # these send or read JSON only
            with pytest.raises((InvalidInput, InferenceFailed)) as caught:
                client.infer({**INPUTS, "d": odd["d"]}, timeout=20)
            assert "JSON has neither NaN nor infinity; ask over gRPC" in str(caught.value.hint)
            odd["d"] = INPUTS["d"][:1]
        if (server.name, protocol) == ("kserve", "rest"):  # it takes base64 for text
            with pytest.raises(InvalidInput, match="bytes that are not UTF-8"):
                client.infer(odd, timeout=20)
            return
        found = client.infer(odd, timeout=20)

    np.testing.assert_array_equal(found["d"], odd["d"])
    assert found["t"].tolist() == [[b"\xff\0", b"x"]]


@SERVERS
@PROTOCOLS
def test_what_does_not_fit_never_runs(server: Any, protocol: str) -> None:
    with server.client(protocol, "tensors") as client:
        before = server.entered("tensors")
        for wrong in ({"D": [[1.0, 2.0]]}, {**INPUTS, "l": [[1.5, 2]]}, {**INPUTS, "d": [1.0]}):
            with pytest.raises(InvalidInput):
                client.infer(wrong, timeout=20)
    assert server.entered("tensors") == before


@SERVERS
@PROTOCOLS
def test_an_image_is_a_tensor_too(server: Any, protocol: str, green: bytes) -> None:
    shape = (1, 1) if server.name == "triton" else (1,)
    image = np.array([green], object).reshape(shape)
    with server.client(protocol, "label") as client:
        if (server.name, protocol) == ("kserve", "rest"):
            with pytest.raises(InvalidInput, match="bytes that are not UTF-8"):
                client.infer({"image": image}, timeout=20)
            return
        found = client.infer({"image": image}, timeout=20)

    assert found["label"].reshape(-1).tolist() == [b"green"]
