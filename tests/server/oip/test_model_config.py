"""The model configuration extension, read by Triton's own clients."""

from __future__ import annotations

from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from mlserve.server.oip.metadata import model_config
from mlserve.settings import ServerSettings
from mlserve.store import VersionPolicy
from mlserve.tensors import DType, Signature, TensorSpec

BOTH = pytest.mark.parametrize("protocol", ["http", "grpc"])
EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
]


def config_of(client: Any, protocol: str, *args: str) -> dict[str, Any]:
    if protocol == "http":
        found: dict[str, Any] = client.get_model_config(*args)
    else:
        found = client.get_model_config(*args, as_json=True)["config"]
    return found


@BOTH
def test_a_model_is_configured_as_it_is_served(server: Any, triton_to: Any, protocol: str) -> None:
    client = triton_to(server, protocol)
    for args in (("m",), ("m", "7")):
        config = config_of(client, protocol, *args)
        assert (config["name"], config["backend"]) == ("m", "echo")
        assert config["platform"] == "mlserve_echo"
        assert config["max_batch_size"] == 1024
        assert config["version_policy"] == {"latest": {"num_versions": 1}}
        [image], [label] = config["input"], config["output"]
        assert (image["name"], image["data_type"]) == ("image", "TYPE_STRING")
        assert (label["name"], label["data_type"]) == ("output_0", "TYPE_STRING")
        assert image.get("dims", []) == label.get("dims", []) == []
        assert "dynamic_batching" not in config


@BOTH
def test_a_model_that_is_not_there_has_no_configuration(
    server: Any, triton_to: Any, protocol: str
) -> None:
    client = triton_to(server, protocol)
    for args in (("other",), ("m", "8")):
        with pytest.raises(InferenceServerException, match=r"not find|no version 8"):
            client.get_model_config(*args)


@BOTH
def test_the_extensions_are_those_that_are_there(
    server: Any, triton_to: Any, protocol: str
) -> None:
    found = triton_to(server, protocol).get_server_metadata()
    listed = found["extensions"] if protocol == "http" else list(found.extensions)
    assert listed == EXTENSIONS


def config(signature: Signature, policy: VersionPolicy, **settings: Any) -> dict[str, Any]:
    return model_config("m", "b", "p", policy, signature, ServerSettings(**settings))


def test_batches_and_policies_have_triton_s_words() -> None:
    x, y = TensorSpec("x", DType.FLOAT32, (None, 3)), TensorSpec("y", DType.BYTES, (None, None))
    batched = config(
        Signature("s", (x,), (y,)), VersionPolicy(latest=2), max_batch_size=8, max_batch_delay=0.002
    )
    assert batched["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [3]}]
    assert batched["output"] == [{"name": "y", "data_type": "TYPE_STRING", "dims": [-1]}]
    assert batched["dynamic_batching"] == {"max_queue_delay_microseconds": 2000}
    assert batched["version_policy"] == {"latest": {"num_versions": 2}}
    fixed = TensorSpec("x", DType.BOOL, (2, None))
    alone = config(Signature("s", (fixed,), (y,)), VersionPolicy(serves_all=True), max_batch_size=8)
    assert (alone["max_batch_size"], alone["version_policy"]) == (0, {"all": {}})
    assert [tensor["dims"] for tensor in (*alone["input"], *alone["output"])] == [[2, -1], [-1, -1]]
    assert "dynamic_batching" not in alone
    anything = TensorSpec("x", DType.INT64, None)
    free = config(Signature("s", (anything,), (y,)), VersionPolicy((1, 2)))
    assert (free["input"][0]["dims"], free["max_batch_size"]) == ([-1], 0)
    assert free["version_policy"] == {"specific": {"versions": [1, 2]}}
