"""All manifests of a server, as files for `kubectl apply --kustomize`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
from mlserve.deploy.plan import DeployPlan, require_memory, require_one_version
from mlserve.deploy.writing import MARK
from mlserve.deploy.yaml_text import yaml_text
from mlserve.errors import UsageError

COMMAND = "kubernetes"
ADAPTER = "prometheus-adapter-values.yaml"
"""Not a manifest: values for the chart of prometheus-adapter."""
KUSTOMIZATION = "kustomization.yaml"
"""No object of a cluster: what kubectl apply -k reads."""


class Object(NamedTuple):
    """An object of Kubernetes as data, and what it needs, for the comment above it."""

    data: Any
    needs: str = ""


def manifest_files(plan: DeployPlan, setup: ClusterSetup) -> dict[str, str]:
    """Return the texts of all files by their names.

    Raises UsageError for what a cluster cannot do.
    """
    require_possible(plan, setup)
    arguments = server_arguments(plan, setup)
    objects = objects_of(plan, setup, values_of(plan, setup, arguments))
    about = {"deployment": _about(plan, setup)}
    files = {
        f"{name}.yaml": yaml_text(each.data, comment_of(COMMAND, each, about.get(name, ())))
        for name, each in objects.items()
    }
    files |= kustomization(COMMAND, list(files))
    if "hpa.yaml" in files:
        files[ADAPTER] = yaml_text(adapter_rules(), _about_adapter())
    return files


def kustomization(command: str, names: Sequence[str]) -> dict[str, str]:
    """Return the file that lists these files for `kubectl apply -k`."""
    data = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(names),
    }
    text = yaml_text(data, f"{MARK} {command}`: apply it with kubectl apply -k")
    return {KUSTOMIZATION: text}


def objects_of(plan: DeployPlan, setup: ClusterSetup, values: Values) -> dict[str, Object]:
    """Return the objects that this setup asks for, by the names of their files."""
    every = every_object(plan, setup, values)
    is_wanted = {
        "configmap": setup.config_map,
        "hpa": setup.scales(plan) and setup.autoscaler is Autoscaler.HPA,
        "scaledobject": setup.scales(plan) and setup.autoscaler is Autoscaler.KEDA,
        "pdb": Part.BUDGET not in setup.left_out,
        "networkpolicy": Part.NETWORK_POLICY not in setup.left_out,
        "servicemonitor": Part.MONITOR not in setup.left_out,
        "httproute": setup.gateway is not None,
        "grpcroute": setup.gateway is not None,
    }
    return {name: each for name, each in every.items() if is_wanted.get(name, True)}


def every_object(plan: DeployPlan, setup: ClusterSetup, values: Values) -> dict[str, Object]:
    """Return every object that there can be, by the name of its file without its ending."""
    needs_gateway = "It needs the Gateway API, v1.1 or later, and an implementation of it."
    return {
        "deployment": Object(deployment(plan, setup, values)),
        "service-rest": Object(rest_service(plan, values)),
        "service-grpc": Object(grpc_service(plan, values)),
        "configmap": Object(config_map(plan, values)),
        "hpa": Object(
            horizontal_autoscaler(values),
            f"It needs the custom metrics of prometheus-adapter: {ADAPTER} has the rules.",
        ),
        "scaledobject": Object(scaled_object(values), "It needs KEDA, and Prometheus."),
        "pdb": Object(disruption_budget(values)),
        "networkpolicy": Object(network_policy(plan, values)),
        "servicemonitor": Object(service_monitor(plan, values), "It needs Prometheus's operator."),
        "httproute": Object(http_route(plan, values), needs_gateway),
        "grpcroute": Object(grpc_route(plan, values), needs_gateway),
    }


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
    if setup.artifacts is None:
        require_one_version(plan)
    require_memory(plan)
    if setup.volume is not None and setup.volume.scheme is Scheme.OCI:
        raise UsageError(
            f"{setup.volume} is for KServe: Kubernetes itself mounts images",
            hint=f"write oci+native://{setup.volume.name}",
        )


def comment_of(command: str, each: Object, about: Sequence[str] = ()) -> str:
    """Return the comment above an object."""
    return "\n".join(filter(None, (f"{MARK} {command}`.", each.needs, *about)))


def _about(plan: DeployPlan, setup: ClusterSetup) -> list[str]:
    model = plan.model
    about = [f"{model.model} ({model.backend}), version {', '.join(map(str, model.expected))}."]
    command = secret_command(plan, setup.namespace)
    if command is not None:
        about.append(f"It needs a Secret, which is not written here: {command}")
    if setup.scales(plan):
        about.append("How many replicas run is up to the autoscaler, so it is not said here.")
    return about


def _about_adapter() -> str:
    return (
        f"{MARK} {COMMAND}`: rules for prometheus-adapter, which gives the HPA its numbers.\n"
        "helm upgrade --install prometheus-adapter prometheus-community/prometheus-adapter "
        f"--values {ADAPTER}"
    )
