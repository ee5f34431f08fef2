"""The manifests against Kubernetes' own schemas, strictly; those of others against ours."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mlserve.deploy.kserve import kserve_files
from mlserve.deploy.kubernetes.manifests import manifest_files
from mlserve.deploy.kubernetes.values import Autoscaler, ClusterSetup
from mlserve.deploy.writing import write_files
from tests.deploy.conftest import ALL, MakePlan
from tests.harness.deployed import Manifest, read_manifests
from tests.harness.foreign_tools import ask_script, run_tool

SCHEMAS = Path(__file__).parent / "schemas"
VERSIONS = ("1.35", "1.37")
OTHERS = {
    *("ServiceMonitor", "ScaledObject", "HTTPRoute", "GRPCRoute", "Kustomization"),
    *("ServingRuntime", "InferenceService"),
}
"""Kinds that Kubernetes itself does not have."""
SETUPS = {
    "plain": ({}, ClusterSetup()),
    "all": ({"replicas": "2..6", "cpus": 2.5, "gpus": 1}, ALL),
    "claim": ({"max_queue": 3}, ClusterSetup(artifacts="pvc://claim/a/b", pre_stop=0)),
    "image volume": ({}, ClusterSetup(artifacts="oci+native://r.example/files:3")),
    "files": ({"token_file": Path("t"), "tls_cert": Path("c"), "tls_key": Path("k")},
              ClusterSetup(allow_namespaces="")),
    "keda": ({"replicas": "1..3"}, ClusterSetup(autoscaler=Autoscaler.KEDA, namespace="n")),
}  # fmt: skip


@pytest.fixture(params=SETUPS)
def found(request: pytest.FixtureRequest, make_plan: MakePlan) -> dict[str, Manifest]:
    given, setup = SETUPS[request.param]
    return read_manifests(manifest_files(make_plan(**given), setup))


@pytest.mark.foreign
@pytest.mark.server
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object(make_plan: MakePlan, version: str) -> None:
    objects: list[Manifest] = []
    for given, setup in SETUPS.values():
        found = read_manifests(manifest_files(make_plan(**given), setup))
        objects += [each for each in found.values() if each["kind"] not in OTHERS]
    assert len({each["kind"] for each in objects}) == 6

    assert ask_script("kubernetes", "validate.py", version, given=objects) == {}


@pytest.mark.foreign
@pytest.mark.server
def test_what_is_wrong_is_found(make_plan: MakePlan) -> None:
    found = read_manifests(manifest_files(make_plan(), ClusterSetup()))
    wrong = copy.deepcopy(found["Deployment"])
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}

    faults = ask_script("kubernetes", "validate.py", VERSIONS[0], given=[wrong])

    assert "livenesProbe" in faults["Deployment"]


@pytest.mark.foreign
@pytest.mark.server
def test_kubectl_builds_the_same_from_the_folder(make_plan: MakePlan, tmp_path: Path) -> None:
    files = manifest_files(make_plan(replicas="2..6"), ALL)
    write_files(files, tmp_path / "k8s")

    done = run_tool("kubectl", ["kustomize", tmp_path / "k8s"], tmp_path)

    assert done.returncode == 0, done.stderr
    built = read_manifests({"all": done.stdout})
    expected = read_manifests(files)
    del expected["Kustomization"]
    assert built == expected


@pytest.mark.foreign
@pytest.mark.server
def test_kserve_knows_every_field_and_kubernetes_the_pod(make_plan: MakePlan) -> None:
    plan = make_plan(replicas="1..3", token_file=Path("t"))
    found = read_manifests(kserve_files(plan, ClusterSetup(artifacts="pvc://claim/a")))
    runtime, service = found["ServingRuntime"], found["InferenceService"]

    assert ask_script("kserve", "check_objects.py", given=[runtime, service]) == []
    pod = _pod_of(runtime, service)
    others = [each for each in found.values() if each["kind"] not in OTHERS]
    assert ask_script("kubernetes", "validate.py", VERSIONS[0], given=[pod, *others]) == {}


def _pod_of(runtime: Manifest, service: Manifest) -> Manifest:
    """Return the pod that KServe makes of both, but for what it adds of its own."""
    predictor = dict(service["spec"]["predictor"])
    for name in ("model", "minReplicas", "maxReplicas"):
        del predictor[name]
    spec = {key: runtime["spec"][key] for key in ("containers", "volumes")}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": service["metadata"]["name"]},
        "spec": {**predictor, **spec},
    }


def test_objects_of_others_have_the_fields_that_they_document(
    found: dict[str, Manifest], make_plan: MakePlan
) -> None:
    setup = ClusterSetup(artifacts="oci://x", autoscaler=Autoscaler.KEDA)
    served = read_manifests(kserve_files(make_plan(replicas="1..3"), setup))
    checked = set()
    for each in (*found.values(), *served.values()):
        if each["kind"] in OTHERS:
            _validate(each)
            checked.add(each["kind"])
    assert {"ServiceMonitor", "ScaledObject", "ServingRuntime", "InferenceService"} <= checked


@pytest.mark.parametrize("kind", sorted(OTHERS - {"Kustomization"}))
def test_these_schemas_refuse_an_unknown_field(kind: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match="unheardOf"):
        _validate({"apiVersion": _schema(kind)["properties"]["apiVersion"]["const"], "kind": kind,
                   "metadata": {"name": "x"}, "spec": {"unheardOf": 1}})  # fmt: skip


def _schema(kind: str) -> dict[str, Any]:
    schema = json.loads((SCHEMAS / f"{kind.lower()}.json").read_text())
    assert isinstance(schema, dict)
    return schema


def _validate(manifest: Manifest) -> None:
    jsonschema.validate(manifest, _schema(manifest["kind"]))


def test_all_files_are_yaml_of_one_document(make_plan: MakePlan) -> None:
    for name, text in manifest_files(make_plan(replicas="1..2"), ALL).items():
        assert isinstance(yaml.safe_load(text), dict), name
        assert text.startswith("# Written by `mlserve deploy kubernetes`"), name
