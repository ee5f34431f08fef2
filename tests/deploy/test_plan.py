"""What a plan takes, and what it says of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlserve.artifact import Artifact
from mlserve.deploy.artifacts import Artifacts, Scheme
from mlserve.deploy.plan import cpus_text, memory_for, memory_in, memory_text, name_for
from mlserve.errors import UsageError
from tests.deploy.conftest import MakePlan
from tests.harness.echo import EchoModel


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"name": "Flowers_1"}, "Flowers_1"),
        ({"name": "x" * 60}, "--name"),
        ({"cpus": 0.0}, "--cpus"),
        ({"cpus": float("nan")}, "--cpus"),
        ({"replicas": "6..2"}, "--replicas"),
        ({"cpus": 2.0, "threads": 4}, "--threads 4"),
        ({"grpc_port": 1, "rest_port": 1}, "--rest-port"),
        ({"grpc_socket": Path("/tmp/s")}, "--grpc-socket"),
        ({"record": Path("/tmp/r")}, "--record"),
        ({"ladder": "int8,fp32"}, "--ladder"),
    ],
)
def test_what_does_not_go_together(make_plan: MakePlan, given: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as refused:
        make_plan(**given)

    assert named in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1.0, 1), (2.0, 2), (2.5, 3)])
def test_the_threads_follow_the_cpus(make_plan: MakePlan, cpus: float, threads: int) -> None:
    assert f"--threads={threads}" in list(make_plan(cpus=cpus).server_arguments())


def test_fewer_threads_than_cpus_are_taken(make_plan: MakePlan) -> None:
    assert "--threads=1" in list(make_plan(cpus=2.0, threads=1).server_arguments())


def test_files_are_named_where_a_container_has_them(make_plan: MakePlan) -> None:
    plan = make_plan(token_file=Path("/home/me/token"), max_queue=7)

    assert plan.files == {"token_file": Path("/home/me/token")}
    assert list(plan.server_arguments())[-2:] == [
        "--max-queue=7",
        "--token-file=/run/mlserve/token_file",
    ]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("efficientnet_lite0", "efficientnet-lite0"),
        ("3d", "model-3d"),
        ("_", "model"),
        ("1" * 60, f"model-{'1' * 42}"),
    ],
)
def test_a_name_is_made_of_the_models(model: str, name: str) -> None:
    assert name_for(model) == name


@pytest.mark.parametrize(("text", "size"), [("2Gi", 2 * 2**30), ("1500M", 1500 * 10**6)])
def test_memory_is_read_and_written(text: str, size: int) -> None:
    assert memory_in(text) == size
    assert memory_in(memory_text(size)) == size


@pytest.mark.parametrize("text", ["2 GB", "-1Gi", "0", "2", "2k", "Gi", "1.5Gi"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        memory_in(text)


def test_memory_grows_with_the_versions_files(make_plan: MakePlan, model: EchoModel) -> None:
    served = make_plan().model
    small = memory_for(served)
    folder = Artifact.open(served.base_path, served.model, 3).path
    with (folder / "weights").open("wb") as file:
        file.truncate(2**30)

    assert memory_for(served) - small == 3 * 2**30
    assert memory_text(memory_for(served)).endswith("Mi")


@pytest.mark.parametrize(("cpus", "text"), [(2.0, "2"), (0.5, "500m"), (0.0001, "1m")])
def test_cpus_as_a_quantity(cpus: float, text: str) -> None:
    assert cpus_text(cpus) == text


@pytest.mark.parametrize(
    ("address", "scheme", "name", "folder"),
    [
        ("pvc://claim/a/b", Scheme.PVC, "claim", "a/b"),
        ("pvc://claim", Scheme.PVC, "claim", ""),
        ("oci+native://r.example:5000/x/y:1", Scheme.OCI_NATIVE, "r.example:5000/x/y:1", ""),
        ("oci://x@sha256:0", Scheme.OCI, "x@sha256:0", ""),
    ],
)
def test_addresses_of_artifacts(address: str, scheme: Scheme, name: str, folder: str) -> None:
    found = Artifacts.parse(address)

    assert (found.scheme, found.name, found.folder) == (scheme, name, folder)
    assert str(found) == address


@pytest.mark.parametrize("address", ["s3://bucket", "pvc://", "pvc://a/../b", "claim", "oci://"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UsageError, match="--artifacts"):
        Artifacts.parse(address)
