"""What KServe gets, and its own clients against the container that it would run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlserve.deploy.kserve import kserve_files
from mlserve.deploy.kubernetes.values import Autoscaler, ClusterSetup
from mlserve.errors import UsageError
from tests.deploy.conftest import MakePlan
from tests.foreign.servers import environment
from tests.harness.deployed import container_of, read_manifests, running_container
from tests.harness.echo import EchoModel
from tests.harness.foreign_tools import ask_script
from tests.harness.ports import free_ports

PVC = ClusterSetup(artifacts="pvc://claim/flowers")


def test_the_service_names_the_runtime_and_a_format_of_it(make_plan: MakePlan) -> None:
    found = read_manifests(kserve_files(make_plan(), PVC))
    runtime, model = (
        found["ServingRuntime"],
        found["InferenceService"]["spec"]["predictor"]["model"],
    )

    assert model["runtime"] == runtime["metadata"]["name"]
    formats = [(each["name"], each["version"]) for each in runtime["spec"]["supportedModelFormats"]]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["storageUri"] == "pvc://claim/flowers"
    assert runtime["spec"]["multiModel"] is False


def test_the_autoscaler_scales_what_kserve_makes(make_plan: MakePlan) -> None:
    found = read_manifests(kserve_files(make_plan(replicas="2..5"), PVC))
    service = found["InferenceService"]

    annotations = service["metadata"]["annotations"]
    assert annotations["serving.kserve.io/autoscalerClass"] == "external"
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
    assert target == f"{service['metadata']['name']}-predictor"
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == {
        "serving.kserve.io/inferenceservice": "flowers"
    }


def test_the_monitor_asks_for_a_port_of_the_container(make_plan: MakePlan) -> None:
    found = read_manifests(kserve_files(make_plan(), PVC))
    [endpoint] = found["ServiceMonitor"]["spec"]["endpoints"]
    ports = container_of(found["ServingRuntime"]["spec"])["ports"]

    # KServe's Service takes the names of the container's ports, and sends port 80 to the first.
    assert endpoint["port"] == ports[0]["name"]


def test_the_monitor_and_the_pods_read_the_same_secret(make_plan: MakePlan, access: Path) -> None:
    found = read_manifests(kserve_files(make_plan(token_file=access / "token"), PVC))
    [endpoint] = found["ServiceMonitor"]["spec"]["endpoints"]
    [secret] = [v["secret"] for v in found["ServingRuntime"]["spec"]["volumes"] if "secret" in v]

    assert endpoint["authorization"]["credentials"]["name"] == secret["secretName"]


@pytest.mark.parametrize(
    ("plan", "setup", "named"),
    [
        ({}, {}, "storage"),
        ({}, {"artifacts": "pvc://c", "config_map": True}, "--config-map"),
        ({}, {"artifacts": "pvc://c", "gateway": "main"}, "--gateway"),
        ({"tls_cert": Path("c"), "tls_key": Path("k")}, {"artifacts": "pvc://c"}, "--tls-cert"),
    ],
)
def test_what_kserve_cannot_do(
    make_plan: MakePlan, plan: dict[str, Any], setup: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError) as refused:
        kserve_files(make_plan(**plan), ClusterSetup(**setup))

    assert named in refused.value.message
    assert refused.value.hint


def test_keda_asks_for_the_service_that_kserve_makes(make_plan: MakePlan) -> None:
    setup = ClusterSetup(artifacts="pvc://c", autoscaler=Autoscaler.KEDA)
    found = read_manifests(kserve_files(make_plan(replicas="1..3"), setup))

    triggers = found["ScaledObject"]["spec"]["triggers"]
    for trigger in (each for each in triggers if each["type"] == "prometheus"):
        assert 'service="flowers-predictor"' in trigger["metadata"]["query"]


@pytest.mark.foreign
@pytest.mark.server
def test_kserves_clients_ask_the_server_of_the_runtime(
    make_plan: MakePlan, model: EchoModel, tmp_path: Path
) -> None:
    environment("kserve")
    grpc_port, rest_port = free_ports(2)
    plan = make_plan(grpc_port=grpc_port, rest_port=rest_port)
    found = read_manifests(kserve_files(plan, PVC))
    container = container_of(found["ServingRuntime"]["spec"])
    # A modelcar's /mnt/models is a link into the file system of another container.
    mounted = tmp_path / "mnt-models"
    mounted.symlink_to(model.base_path)

    with running_container(container, {"/mnt/models": mounted}, {"{{.Name}}": "isvc"}) as pod:
        pod.wait_started()
        answers = ask_script("kserve", "ask.py", rest_port, grpc_port, "isvc")

    for how in ("rest", "grpc"):
        assert answers[how] == {
            "live": True,
            "ready": True,
            "model_ready": True,
            "model": "isvc",
            "labels": ["sorrel"],
        }
