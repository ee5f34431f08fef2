"""Which model answers: every protocol of a server of mlserve tells the digests of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlserve.artifact import Artifact
from mlserve.certificate.certificate import Certificate
from mlserve.client import Client
from mlserve.client.answers import ModelMetadata
from mlserve.gate.identity import Identity
from tests.harness.echo import manifest

CERTIFICATE = Certificate("echo", 16, 1e-3, 0.0, 16, 0.1, "a CPU")


@pytest.fixture(scope="module")
def server(start_echo: Callable[..., Any]) -> Any:
    return start_echo(manifest=manifest())


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("api", ["tfs", "oip"])
def test_the_digests_are_those_of_the_files(server: Any, protocol: str, api: Any) -> None:
    content = (
        Path(server.log_path).with_name("inception_v3").joinpath("1/mlserve.json").read_bytes()
    )
    with Client(server.endpoint(protocol), model="inception_v3", api=api) as client:
        found = Identity.of(client.metadata(timeout=20))
    assert found == Identity(
        "inception_v3",
        1,
        f"sha256:{hashlib.sha256(content).hexdigest()}",
        None,
    )
    assert str(found).startswith("inception_v3 version 1 (sha256:")


def test_the_digest_of_a_certificate(tmp_path: Path) -> None:
    replace(manifest(), certificate=CERTIFICATE).write(tmp_path, ())
    content = (tmp_path / "mlserve.json").read_bytes()
    certificate = json.dumps(json.loads(content)["certificate"], sort_keys=True).encode()
    assert Artifact(tmp_path, "m", 1, None).digests() == {
        "artifact": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "certificate": f"sha256:{hashlib.sha256(certificate).hexdigest()}",
    }
    assert Artifact(tmp_path / "none", "m", 1, None).digests() == {}


@pytest.mark.parametrize("contract", [None, {}, {"digests": None}, {"digests": ["sha256:ab"]}])
def test_a_server_that_does_not_tell(contract: Any) -> None:
    metadata = ModelMetadata("m", None, (), contract=contract)
    assert Identity.of(metadata) == Identity("m", None, None, None)
