"""All manifests of a server, as files for `kubectl apply --kustomize`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlserve.deploy.artifacts import Scheme
from mlserve.deploy.kubernetes.configuration import config_map, secret_command, server_arguments
from mlserve.deploy.kubernetes.network import (
    disruption_budget,
    grpc_route,
    grpc_service,
    http_route,
    network_policy,
    rest_service,
    service_monitor,
)
from mlserve.deploy.kubernetes.scaling import (
    adapter_rules,
    horizontal_autoscaler,
    scaled_object,
)
from mlserve.deploy.kubernetes.values import (
    Autoscaler,
    ClusterSetup,
    Part,
    Values,
    values_of,
)
from mlserve.deploy.kubernetes.workload import deployment
from mlserve.deploy.plan import DeployPlan
from mlserve.deploy.writing import MARK
from mlserve.deploy.yaml_text import yaml_text
from mlserve.errors import UsageError

COMMAND = "kubernetes"
ADAPTER = "prometheus-adapter-values.yaml"
"""Not a manifest: values for the chart of prometheus-adapter."""
_KUSTOMIZATION = "kustomization.yaml"


def manifest_files(plan: DeployPlan, setup: ClusterSetup) -> dict[str, str]:
    """Return the texts of all files by their names.

    Raises UsageError for what a cluster cannot do.
    """
    require_possible(plan, setup)
    arguments = server_arguments(plan, follows_config=setup.config_map)
    objects = objects_of(plan, setup, values_of(plan, setup, arguments))
    files = {name: yaml_text(data, comment) for name, (data, comment) in objects.items()}
    listed = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    files[_KUSTOMIZATION] = yaml_text(listed, f"{MARK} {COMMAND}`: apply it with kubectl apply -k")
    if "hpa.yaml" in files:
        files[ADAPTER] = yaml_text(adapter_rules(), _about_adapter())
    return files


def objects_of(
    plan: DeployPlan, setup: ClusterSetup, values: Values
) -> Mapping[str, tuple[Any, str]]:
    """Return each object and the comment above it, by the name of its file."""
    scales = setup.scales
    found: dict[str, tuple[Any, str]] = {}

    def add(name: str, data: Any, *about: str) -> None:
        found[f"{name}.yaml"] = data, "\n".join((f"{MARK} {COMMAND}`.", *about))

    add("deployment", deployment(plan, setup, values, scales=scales), *_about(plan, setup))
    add("service-rest", rest_service(plan, values))
    add("service-grpc", grpc_service(plan, values))
    if setup.config_map:
        add("configmap", config_map(plan, values))
    if scales and setup.autoscaler is Autoscaler.HPA:
        add(
            "hpa",
            horizontal_autoscaler(values),
            f"It needs the custom metrics of prometheus-adapter: {ADAPTER} has the rules.",
        )
    elif scales:
        add("scaledobject", scaled_object(values, setup), "It needs KEDA, and Prometheus.")
    if Part.BUDGET not in setup.left_out:
        add("pdb", disruption_budget(values))
    if Part.NETWORK_POLICY not in setup.left_out:
        add("networkpolicy", network_policy(plan, values))
    if Part.MONITOR not in setup.left_out:
        add("servicemonitor", service_monitor(plan, values), "It needs Prometheus's operator.")
    if setup.gateway is not None:
        about = "It needs the Gateway API (v1.1 or later) and an implementation of it."
        add("httproute", http_route(plan, values), about)
        add("grpcroute", grpc_route(plan, values), about)
    return found


def require_possible(plan: DeployPlan, setup: ClusterSetup) -> None:
    """Raise UsageError for settings that do not go with Kubernetes, or with each other."""
    if plan.settings.tls_client_ca is not None:
        raise UsageError(
            "--tls-client-ca does not go with Kubernetes: the probes of its nodes have no client "
            "certificate",
            hint="let a gateway or a mesh ask for client certificates, or use --token-file",
        )
    if setup.gateway is not None and plan.has_tls:
        raise UsageError(
            "--gateway does not go with --tls-cert: a gateway speaks to its backends in the clear",
            hint="leave --tls-cert out, and give the gateway the certificate",
        )
    model = plan.model
    if setup.artifacts is None and (model.versions.serves_all or len(model.expected) > 1):
        raise UsageError(
            "an image holds one version of a model",
            hint="choose it with --version N, or name a volume of several: --artifacts pvc://CLAIM",
        )
    if setup.volume is not None and setup.volume.scheme is Scheme.OCI:
        raise UsageError(
            f"{setup.volume} is for KServe: Kubernetes itself mounts images",
            hint=f"write oci+native://{setup.volume.name}",
        )


def _about(plan: DeployPlan, setup: ClusterSetup) -> list[str]:
    model = plan.model
    about = [f"{model.model} ({model.backend}), version {', '.join(map(str, model.expected))}."]
    command = secret_command(plan, setup.namespace)
    if command is not None:
        about.append(f"It needs a Secret, which is not written here: {command}")
    if setup.scales:
        about.append("How many replicas run is up to the autoscaler, so it is not said here.")
    return about


def _about_adapter() -> str:
    return (
        f"{MARK} {COMMAND}`: rules for prometheus-adapter, which gives the HPA its numbers.\n"
        "helm upgrade --install prometheus-adapter prometheus-community/prometheus-adapter "
        f"--values {ADAPTER}"
    )
