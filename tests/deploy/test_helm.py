"""The chart, rendered by Helm itself, is what `mlserve deploy kubernetes` writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlserve.deploy.helm import chart_files
from mlserve.deploy.kubernetes.manifests import manifest_files
from mlserve.deploy.kubernetes.values import Autoscaler, ClusterSetup
from mlserve.deploy.writing import write_files
from mlserve.errors import UsageError
from tests.deploy.conftest import MakePlan
from tests.harness.deployed import Manifest, container_of, read_manifests
from tests.harness.foreign_tools import ask_script, run_tool

Render = Callable[..., dict[str, Manifest]]
_FROM_VALUES = ("nodeSelector", "affinity", "tolerations", "imagePullSecrets")


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    return tmp_path / "chart"


@pytest.fixture
def render(chart: Path, tmp_path: Path) -> Render:
    """`render(*options)` are the objects of the chart, released as `flowers` into `vision`."""

    def rendered(*options: str) -> dict[str, Manifest]:
        done = run_tool("helm", _template(chart, *options), tmp_path)
        assert done.returncode == 0, done.stderr
        return read_manifests({"all": done.stdout})

    return rendered


def _template(chart: Path, *options: str) -> list[object]:
    return ["template", "flowers", chart, "--namespace", "vision", "--kube-version", "1.35",
            *options]  # fmt: skip


@pytest.mark.foreign
@pytest.mark.server
@pytest.mark.parametrize(
    ("given", "setup"),
    [
        ({}, {}),
        ({"replicas": "2..6", "cpus": 2.5, "gpus": 1}, {"gateway": "infra/main", "hostnames": "a.b",
                                                        "config_map": True}),
        ({"replicas": "2..6", "drain_timeout": 33.5, "wait": 301.0},
         {"autoscaler": Autoscaler.KEDA, "artifacts": "pvc://claim/a/b", "pre_stop": 9}),
        ({"wait": 900.5}, {"pre_stop": 0}),
        ({"token_file": Path("t"), "max_queue": 5, "max_batch_size": 4, "replicas": "1..2"},
         {"artifacts": "oci+native://r.example/files:3", "without": "budget,network-policy"}),
    ],
)  # fmt: skip
def test_it_renders_to_the_manifests(
    make_plan: MakePlan, chart: Path, render: Render, given: dict[str, Any], setup: dict[str, Any]
) -> None:
    plan = make_plan(**given)
    write_files(chart_files(plan, ClusterSetup(**setup)), chart)
    expected = read_manifests(manifest_files(plan, ClusterSetup(namespace="vision", **setup)))
    del expected["Kustomization"]

    found = render()

    assert set(found) == set(expected)
    for kind, each in expected.items():
        assert _plain(found[kind]) == _plain(each), kind


def _plain(manifest: Manifest) -> Manifest:
    """Return an object without what only a chart or only a manifest says, in one notation."""
    plain: Manifest = json.loads(json.dumps(manifest))
    plain["metadata"].pop("namespace", None)
    if plain["kind"] == "Deployment":
        template = plain["spec"]["template"]
        template["metadata"].pop("annotations", None)
        for name in _FROM_VALUES:
            template["spec"].pop(name, None)
        container = container_of(template["spec"])
        # The chart always names the drain; half a CPU is 0.5 there, and 500m here.
        container["args"] = sorted({*container["args"], *_drain(container["args"])})
        for each in container["resources"].values():
            each["cpu"] = _cores(each["cpu"])
    if "parentRefs" in plain.get("spec", {}):
        plain["spec"].setdefault("hostnames", [])
    return plain


def _drain(arguments: list[str]) -> list[str]:
    is_named = any(argument.startswith("--drain-timeout") for argument in arguments)
    return [] if is_named else ["--drain-timeout=10"]


def _cores(quantity: str) -> float:
    return int(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


@pytest.mark.foreign
@pytest.mark.server
def test_helm_finds_no_fault(make_plan: MakePlan, chart: Path, tmp_path: Path) -> None:
    write_files(chart_files(make_plan(replicas="2..6"), ClusterSetup()), chart)

    done = run_tool("helm", ["lint", "--strict", chart], tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.foreign
@pytest.mark.server
def test_values_that_are_set_are_everywhere(
    make_plan: MakePlan, chart: Path, render: Render
) -> None:
    write_files(chart_files(make_plan(replicas="2..6"), ClusterSetup()), chart)

    found = render(
        *("--set", "cpus=3.5", "--set", "drainTimeoutSeconds=40", "--set", "preStopSeconds=8"),
        *("--set", "replicas.most=9", "--set", "nodeSelector.disk=ssd", "--set", "image=a/b:4"),
        *("--set", "env[0].name=OMP_NUM_THREADS", "--set-string", "env[0].value=1"),
        *("--set", "serviceMonitor.labels.release=prometheus"),
    )

    pod = found["Deployment"]["spec"]["template"]["spec"]
    container = container_of(pod)
    assert container["resources"]["limits"]["cpu"] == "3.5"
    assert {"--threads=4", "--drain-timeout=40"} <= set(container["args"])
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == 8
    assert pod["terminationGracePeriodSeconds"] == 8 + 40 + 5
    assert container["image"] == "a/b:4"
    assert pod["nodeSelector"] == {"disk": "ssd"}
    names = [each["name"] for each in container["env"]]
    assert (names[-1], "MLSERVE_HOME" in names) == ("OMP_NUM_THREADS", True)
    labels = found["ServiceMonitor"]["metadata"]["labels"]
    assert labels.items() > found["Deployment"]["metadata"]["labels"].items()
    assert labels["release"] == "prometheus"
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    assert scaler["maxReplicas"] == 9
    assert scaler["metrics"][-2]["pods"]["target"]["averageValue"] == "2.8"  # 0.7 of 4 slots
    assert ask_script("kubernetes", "validate.py", "1.35", given=[found["Deployment"]]) == {}


@pytest.mark.foreign
@pytest.mark.server
def test_parts_are_switched_on_and_off(make_plan: MakePlan, chart: Path, render: Render) -> None:
    write_files(chart_files(make_plan(replicas="2..6"), ClusterSetup()), chart)

    found = render(
        *("--set", "autoscaling.enabled=false", "--set", "serviceMonitor.enabled=false"),
        *("--set", "gateway.enabled=true", "--set", "gateway.name=main"),
    )

    assert found["Deployment"]["spec"]["replicas"] == 2
    assert not {"HorizontalPodAutoscaler", "ServiceMonitor"} & set(found)
    assert found["HTTPRoute"]["spec"]["parentRefs"] == [{"name": "main", "namespace": "vision"}]


@pytest.mark.foreign
@pytest.mark.server
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("cpuz=2", "cpuz"),
        ("cpus=many", "cpus"),
        ("memory=lots", "memory"),
        ("autoscaling.kind=vpa", "kind"),
        ("gateway.enabled=true", "gateway.name is empty"),
    ],
)
def test_wrong_values_are_refused(
    make_plan: MakePlan, chart: Path, tmp_path: Path, wrong: str, said: str
) -> None:
    write_files(chart_files(make_plan(), ClusterSetup()), chart)

    done = run_tool("helm", _template(chart, "--set", wrong), tmp_path)

    assert done.returncode != 0
    assert said in done.stderr


def test_a_chart_has_no_namespace(make_plan: MakePlan) -> None:
    with pytest.raises(UsageError, match="--namespace"):
        chart_files(make_plan(), ClusterSetup(namespace="vision"))


def test_the_values_and_their_schema_have_the_same_keys(make_plan: MakePlan) -> None:
    files = chart_files(make_plan(replicas="2..6"), ClusterSetup())
    values = yaml.safe_load(files["values.yaml"])
    schema = json.loads(files["values.schema.json"])

    assert set(schema["properties"]) == {*values, "global"}
    assert set(schema["properties"]["autoscaling"]["properties"]) == set(values["autoscaling"])
