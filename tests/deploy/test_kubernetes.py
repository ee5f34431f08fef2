"""Do the manifests fit together: labels, ports, names, numbers?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlserve.config.servers import read_config
from mlserve.deploy.kserve import kserve_files
from mlserve.deploy.kubernetes.manifests import ADAPTER, manifest_files
from mlserve.deploy.kubernetes.network import METRICS_KEY
from mlserve.deploy.kubernetes.scaling import METRICS
from mlserve.deploy.kubernetes.values import Autoscaler, ClusterSetup
from mlserve.errors import UsageError
from mlserve.settings import ServerSettings
from mlserve.store import VersionPolicy
from tests.deploy.conftest import ALL, IMAGE, MakePlan
from tests.harness.deployed import Manifest, container_of, read_manifests


@pytest.fixture
def found(make_plan: MakePlan) -> dict[str, Manifest]:
    return read_manifests(manifest_files(make_plan(cpus=2.0, replicas="2..6"), ALL))


def test_every_kind_is_there(found: dict[str, Manifest]) -> None:
    assert set(found) == {
        *("Deployment", "Service/flowers", "Service/flowers-grpc", "ConfigMap"),
        *("HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"),
        *("ServiceMonitor", "HTTPRoute", "GRPCRoute", "Kustomization"),
    }
    assert {each["metadata"]["namespace"] for kind, each in found.items()
            if kind != "Kustomization"} == {"vision"}  # fmt: skip


def test_all_that_chooses_pods_chooses_these(found: dict[str, Manifest]) -> None:
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    spread = found["Deployment"]["spec"]["template"]["spec"]["topologySpreadConstraints"]
    selectors = [
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service/flowers"]["spec"]["selector"],
        found["Service/flowers-grpc"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in spread),
    ]

    for selector in selectors:
        assert selector
        assert selector.items() <= labels


def test_the_monitor_chooses_the_service_that_has_its_port(found: dict[str, Manifest]) -> None:
    monitor, service = found["ServiceMonitor"]["spec"], found["Service/flowers"]

    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    ports = [port["name"] for port in service["spec"]["ports"]]
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == ports


def test_every_name_of_a_port_resolves(found: dict[str, Manifest]) -> None:
    container = container_of(found["Deployment"]["spec"]["template"]["spec"])
    by_name = {port["name"]: port["containerPort"] for port in container["ports"]}
    for kind in ("Service/flowers", "Service/flowers-grpc"):
        [port] = found[kind]["spec"]["ports"]
        assert port["port"] == by_name[port["targetPort"]]
    opened = {port["port"] for port in found["NetworkPolicy"]["spec"]["ingress"][0]["ports"]}
    assert opened == set(by_name.values())
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["httpGet"]["port"] == by_name["rest"]


@pytest.mark.parametrize(("kind", "port"), [("HTTPRoute", 8501), ("GRPCRoute", 8500)])
def test_routes_lead_to_services(found: dict[str, Manifest], kind: str, port: int) -> None:
    route = found[kind]["spec"]
    [backend] = route["rules"][0]["backendRefs"]

    assert backend["port"] == port
    assert found[f"Service/{backend['name']}"]["spec"]["ports"][0]["port"] == port
    assert route["parentRefs"] == [{"name": "main", "namespace": "infra"}]
    assert route["hostnames"] == ["flowers.example"]


@pytest.mark.parametrize(
    ("settings", "ports"),
    [
        ({}, []),
        ({"otlp": "http://otel:4318"}, [4318, 53, 53]),
        ({"shadow": "http://flowers-next:8501"}, [8501, 53, 53]),
        ({"shadow": "flowers-next:8500", "otlp": "grpc://otel:4317"}, [4317, 8500, 53, 53]),
    ],
)
def test_the_pods_get_out_to_those_whom_they_ask(
    make_plan: MakePlan, settings: dict[str, Any], ports: list[int]
) -> None:
    policy = read_manifests(manifest_files(make_plan(**settings), ALL))["NetworkPolicy"]
    opened = [port["port"] for each in policy["spec"]["egress"] for port in each["ports"]]
    assert opened == ports


def test_the_pods_of_the_gateway_get_through(make_plan: MakePlan) -> None:
    setup = ClusterSetup(gateway="infra/main", allow_namespaces="monitoring,infra")
    found = read_manifests(manifest_files(make_plan(), setup))

    [rule] = found["NetworkPolicy"]["spec"]["ingress"]
    [_, named] = rule["from"]
    [expression] = named["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["monitoring", "infra"]


def test_a_rollout_may_take_as_long_as_a_pod(make_plan: MakePlan) -> None:
    found = read_manifests(manifest_files(make_plan(wait=1200.0), ClusterSetup()))

    assert found["Deployment"]["spec"]["progressDeadlineSeconds"] > 1200


def test_grpc_is_not_balanced_by_connection(found: dict[str, Manifest]) -> None:
    assert found["Service/flowers-grpc"]["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize(("drain", "pre_stop"), [(10.0, 5), (0.0, 0), (45.5, 12)])
def test_the_grace_is_longer_than_all_that_it_has_to_hold(
    make_plan: MakePlan, drain: float, pre_stop: int
) -> None:
    setup = ClusterSetup(pre_stop=pre_stop)
    found = read_manifests(manifest_files(make_plan(drain_timeout=drain), setup))
    pod = found["Deployment"]["spec"]["template"]["spec"]

    # Kubernetes refuses to sleep for 0 s before 1.33.
    wait = {"preStop": {"sleep": {"seconds": pre_stop}}} if pre_stop else None
    assert container_of(pod).get("lifecycle") == wait
    # 2 s: what unloading the models may take beyond the drain, and as much for the last answers.
    assert pod["terminationGracePeriodSeconds"] >= pre_stop + drain + 4


@pytest.mark.parametrize("cpus", [0.5, 2.0, 2.5])
def test_requests_limits_and_threads_agree(make_plan: MakePlan, cpus: float) -> None:
    plan = make_plan(cpus=cpus, memory=2 * 2**30, gpus=1)
    found = read_manifests(manifest_files(plan, ClusterSetup()))
    container = container_of(found["Deployment"]["spec"]["template"]["spec"])
    resources = container["resources"]

    assert resources["requests"] == resources["limits"]
    assert resources["limits"]["memory"] == "2Gi"
    assert resources["limits"]["nvidia.com/gpu"] == 1
    cpu = resources["limits"]["cpu"]
    limit = int(cpu[:-1]) / 1000 if cpu.endswith("m") else int(cpu)
    [threads] = [a for a in container["args"] if a.startswith("--threads=")]
    assert limit == cpus
    assert int(threads.partition("=")[2]) == max(1, -(-cpus // 1))


def test_nothing_may_be_written_but_what_is_mounted(found: dict[str, Manifest]) -> None:
    pod = found["Deployment"]["spec"]["template"]["spec"]
    container = container_of(pod)

    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"]
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"]
    writable = {m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {m["name"] for m in container["volumeMounts"]} == set(volumes)
    assert all("emptyDir" in volumes[name] for name in writable)
    homes = [item["value"] for item in container["env"] if "HOME" in item["name"]]
    assert all(path.startswith("/tmp") for path in homes)


def test_the_autoscaler_scales_the_deployment(found: dict[str, Manifest]) -> None:
    scaler = found["HorizontalPodAutoscaler"]["spec"]

    assert scaler["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 6)
    assert "replicas" not in found["Deployment"]["spec"]
    # Two slots, of which 0.7 are to be busy.
    targets = {m["pods"]["metric"]["name"]: m["pods"]["target"]["averageValue"]
               for m in scaler["metrics"] if "pods" in m}  # fmt: skip
    assert targets["mlserve_busy_slots"] == "1.4"


def test_every_metric_of_the_autoscaler_has_a_rule(make_plan: MakePlan) -> None:
    files = manifest_files(make_plan(replicas="1..3"), ClusterSetup())
    scaler = read_manifests(files)["HorizontalPodAutoscaler"]["spec"]
    rules = yaml.safe_load(files[ADAPTER])["rules"]["custom"]

    wanted = [metric["pods"]["metric"]["name"] for metric in scaler["metrics"] if "pods" in metric]
    assert [rule["name"]["as"] for rule in rules] == wanted
    assert [rule["seriesQuery"].partition("{")[0] for rule in rules] == [m.series for m in METRICS]


def test_keda_asks_for_the_same(make_plan: MakePlan) -> None:
    setup = ClusterSetup(autoscaler=Autoscaler.KEDA, namespace="vision")
    found = read_manifests(manifest_files(make_plan(replicas="1..3"), setup))
    triggers = found["ScaledObject"]["spec"]["triggers"]

    assert "HorizontalPodAutoscaler" not in found
    assert triggers.pop()["type"] == "cpu"
    for trigger, metric in zip(triggers, METRICS, strict=True):
        query = trigger["metadata"]["query"]
        assert query.startswith("sum(")
        assert f'{metric.series}{{namespace="vision",service="flowers"' in query
        assert float(trigger["metadata"]["threshold"]) > 0


def test_a_fixed_number_of_replicas_has_no_autoscaler(make_plan: MakePlan) -> None:
    found = read_manifests(manifest_files(make_plan(replicas="3"), ClusterSetup()))

    assert found["Deployment"]["spec"]["replicas"] == 3
    assert "HorizontalPodAutoscaler" not in found


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("budget", "PodDisruptionBudget"),
        ("monitor", "ServiceMonitor"),
        ("network-policy", "NetworkPolicy"),
        ("autoscaler", "HorizontalPodAutoscaler"),
    ],
)
def test_parts_are_left_out(make_plan: MakePlan, part: str, kind: str) -> None:
    found = read_manifests(manifest_files(make_plan(replicas="2..4"), ClusterSetup(without=part)))

    assert kind not in found
    assert "Deployment" in found


def test_a_token_is_mounted_and_written_nowhere(make_plan: MakePlan, access: Path) -> None:
    files = manifest_files(make_plan(token_file=access / "token"), ClusterSetup(namespace="n"))
    found = read_manifests(files)
    pod = found["Deployment"]["spec"]["template"]["spec"]

    assert not any("s3cret-of-this-test" in text for text in files.values())
    assert "--token-file=/run/mlserve/token_file" in container_of(pod)["args"]
    [volume] = [volume for volume in pod["volumes"] if "secret" in volume]
    secret = volume["secret"]["secretName"]
    command = f"kubectl create secret generic {secret} --namespace=n --from-file=token_file="
    assert command in " ".join(files["deployment.yaml"].replace("\n#", "").split())
    [endpoint] = found["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": secret, "key": METRICS_KEY}


def test_tls_is_probed_and_scraped_by_tls(make_plan: MakePlan, access: Path) -> None:
    plan = make_plan(tls_cert=access / "cert", tls_key=access / "key")
    found = read_manifests(manifest_files(plan, ClusterSetup()))
    container = container_of(found["Deployment"]["spec"]["template"]["spec"])

    assert container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert found["ServiceMonitor"]["spec"]["endpoints"][0]["scheme"] == "https"


@pytest.mark.parametrize(
    ("address", "volume", "mount"),
    [
        (
            "pvc://claim/flowers",
            {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}},
            {"mountPath": "/models/flowers", "subPath": "flowers"},
        ),
        (
            "oci+native://r.example/files:3",
            {"image": {"reference": "r.example/files:3", "pullPolicy": "IfNotPresent"}},
            {"mountPath": "/models", "subPath": "models"},
        ),
    ],
)
def test_artifacts_are_where_the_server_looks(
    make_plan: MakePlan, address: str, volume: dict[str, Any], mount: dict[str, Any]
) -> None:
    found = read_manifests(manifest_files(make_plan(), ClusterSetup(artifacts=address)))
    pod = found["Deployment"]["spec"]["template"]["spec"]
    container = container_of(pod)

    assert {"name": "models", **volume} in pod["volumes"]
    assert {"name": "models", "readOnly": True, **mount} in container["volumeMounts"]
    assert "--base-path=/models/flowers" in container["args"]


def test_the_config_map_says_what_the_arguments_say(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(cpus=2.0, max_queue=9, log_requests=ServerSettings(log_requests="all")
                     .log_requests, versions=(3,))  # fmt: skip
    data = read_manifests(manifest_files(plan, ALL))["ConfigMap"]["data"]
    (tmp_path / "mlserve.toml").write_text(data["mlserve.toml"])

    server = read_config(tmp_path / "mlserve.toml").server("flowers")

    assert server.settings == plan.settings_inside
    assert (server.host, server.grpc_port, server.rest_port) == ("0.0.0.0", 8500, 8501)
    [described] = server.models
    assert described.path == Path("/models/flowers")
    assert described.options == plan.load_options
    assert described.versions == plan.model.versions


@pytest.mark.parametrize(
    ("plan", "setup", "named"),
    [
        ({"tls_client_ca": Path("ca"), "tls_cert": Path("c"), "tls_key": Path("k")}, {}, "--tls-c"),
        ({"tls_cert": Path("c"), "tls_key": Path("k")}, {"gateway": "main"}, "--gateway"),
        ({}, {"artifacts": "oci://x"}, "oci://x"),
        ({}, {"hostnames": "a.example"}, "--hostnames"),
        ({}, {"without": "deployment"}, "--without"),
        ({}, {"pre_stop": -1}, "--pre-stop"),
        ({}, {"namespace": "My_Team"}, "--namespace"),
        ({}, {"gateway": "a/b/c"}, "--gateway"),
        ({}, {"gateway": "main", "hostnames": "a b"}, "--hostnames"),
        ({}, {"allow_namespaces": "monitoring,*"}, "--allow-namespaces"),
        ({"image": "flowers 3"}, {}, "--image"),
        ({"max_queue_bytes": 2**30}, {}, "--max-queue-bytes"),
    ],
)
def test_what_a_cluster_cannot_do(
    make_plan: MakePlan, plan: dict[str, Any], setup: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError) as refused:
        manifest_files(make_plan(**plan), ClusterSetup(**setup))

    assert named in refused.value.message
    assert refused.value.hint


def test_several_versions_need_a_volume(make_plan: MakePlan) -> None:
    plan = make_plan()
    plan = replace(plan, model=replace(plan.model, expected=(2, 3)))

    with pytest.raises(UsageError, match="one version"):
        manifest_files(plan, ClusterSetup())
    assert manifest_files(plan, ClusterSetup(artifacts="pvc://claim/flowers"))


@pytest.mark.parametrize(
    ("policy", "arguments"),
    [
        (VersionPolicy(), []),
        (VersionPolicy((3, 2)), ["--version", "3", "2"]),
        (VersionPolicy(serves_all=True), ["--all-versions"]),
    ],
)
@pytest.mark.parametrize("write", [manifest_files, kserve_files])
def test_a_volume_may_hold_other_versions_than_those_asked_for(
    make_plan: MakePlan, write: Any, policy: VersionPolicy, arguments: list[str]
) -> None:
    plan = make_plan()
    plan = replace(plan, model=replace(plan.model, versions=policy))

    found = read_manifests(write(plan, ClusterSetup(artifacts="pvc://claim/flowers")))

    pod = found.get("ServingRuntime") or found["Deployment"]["spec"]["template"]
    args = container_of(pod["spec"])["args"]
    assert args[len(args) - len(arguments) :] == arguments
    assert [each for each in args if "version" in each] == arguments[:1]


def test_the_image_is_the_one_that_was_given(found: dict[str, Manifest]) -> None:
    container = container_of(found["Deployment"]["spec"]["template"]["spec"])
    assert container["image"] == IMAGE
