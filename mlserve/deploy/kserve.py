"""The ServingRuntime and the InferenceService that have KServe run a server, in Standard mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mlserve.deploy.kubernetes.manifests import (
    ADAPTER,
    Object,
    comment_of,
    kustomization,
)
from mlserve.deploy.kubernetes.network import disruption_budget, service_monitor
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
from mlserve.deploy.kubernetes.workload import own_mounts, own_volumes, pod_rules, served
from mlserve.deploy.plan import DeployPlan, require_memory
from mlserve.deploy.writing import MARK
from mlserve.deploy.yaml_text import Noted, yaml_text
from mlserve.errors import UsageError
from mlserve.options import flag_of

COMMAND = "kserve"
MOUNTED = "/mnt/models"
"""Where KServe puts what a storageUri names."""
NAME_OF_SERVICE = "{{.Name}}"
"""What KServe replaces by the name of the InferenceService."""
_REST, _GRPC = "http1", "h2c"
"""The names that KServe gives these ports."""


def kserve_files(plan: DeployPlan, setup: ClusterSetup) -> dict[str, str]:
    """Return the texts of all files by their names. Raises UsageError for what KServe cannot do."""
    _require_possible(plan, setup)
    values = _values(plan, setup)
    files = {
        f"{name}.yaml": yaml_text(each.data, comment_of(COMMAND, each))
        for name, each in _objects(plan, setup, values)
    }
    files |= kustomization(COMMAND, list(files))
    if "hpa.yaml" in files:
        files[ADAPTER] = yaml_text(
            adapter_rules(), f"{MARK} {COMMAND}`: rules for the chart of prometheus-adapter."
        )
    return files


def _objects(plan: DeployPlan, setup: ClusterSetup, values: Values) -> Iterator[tuple[str, Object]]:
    yield "servingruntime", Object(_runtime(plan, values))
    yield (
        "inferenceservice",
        Object(
            _service(plan, setup, values), "It needs KServe 0.16 or later, for its Standard mode."
        ),
    )
    if setup.scales(plan) and setup.autoscaler is Autoscaler.HPA:
        needs = f"It needs the custom metrics of prometheus-adapter: {ADAPTER} has the rules."
        yield "hpa", Object(horizontal_autoscaler(values), needs)
    elif setup.scales(plan):
        yield "scaledobject", Object(scaled_object(values), "It needs KEDA, and Prometheus.")
    if Part.BUDGET not in setup.left_out:
        yield "pdb", Object(disruption_budget(values))
    if Part.MONITOR not in setup.left_out:
        # The Secret has the name that the service has: KServe's part of its name is not in it.
        monitor = service_monitor(plan, replace(values, name=plan.name), port=_REST)
        yield "servicemonitor", Object(monitor, "It needs Prometheus's operator.")


def runtime_name(plan: DeployPlan) -> str:
    """Return the name of the ServingRuntime, which serves every model of the backend."""
    return f"{plan.name}-runtime"


def server_arguments(plan: DeployPlan) -> list[str]:
    """Return the arguments of the server: the model has the name of its InferenceService."""
    replaced = {
        "--model": f"--model={NAME_OF_SERVICE}",
        "--base-path": f"--base-path={MOUNTED}",
    }
    arguments = (*plan.server_arguments(), *plan.version_arguments())
    return [replaced.get(each.partition("=")[0], each) for each in arguments]


def _values(plan: DeployPlan, setup: ClusterSetup) -> Values:
    """Return the values of what KServe names: it adds `-predictor` to the service's name."""
    values = values_of(plan, setup, server_arguments(plan))
    return replace(
        values,
        name=f"{plan.name}-predictor",
        pods={"serving.kserve.io/inferenceservice": plan.name},
    )


def _runtime(plan: DeployPlan, values: Values) -> Any:
    format_ = f"mlserve-{plan.model.backend}"
    container = served(plan, values, {_REST: plan.rest_port, _GRPC: plan.grpc_port})
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": values.metadata(runtime_name(plan)),
        "spec": {
            "annotations": {
                "prometheus.kserve.io/port": str(plan.rest_port),
                "prometheus.kserve.io/path": "/metrics",
            },
            "supportedModelFormats": Noted(
                [{"name": format_, "version": "1", "autoSelect": True, "priority": 1}],
                "A format of its own: a folder of versions, as mlserve exports them.",
            ),
            "protocolVersions": ["v2", "grpc-v2"],
            "multiModel": Noted(
                False,
                "One pod serves one model, and all its versions: KServe's multi-model serving "
                "needs ModelMesh, whose way to load models the server does not have.",
            ),
            "containers": [
                {"name": "kserve-container", **container, "volumeMounts": own_mounts(plan)}
            ],
            "volumes": own_volumes(plan, replace(values, name=plan.name)),
        },
    }


def _service(plan: DeployPlan, setup: ClusterSetup, values: Values) -> Any:
    annotations: dict[str, Any] = {
        "serving.kserve.io/deploymentMode": Noted(
            "Standard", "Both ports need it: a Knative service has only one."
        )
    }
    if setup.scales(plan):
        annotations["serving.kserve.io/autoscalerClass"] = Noted(
            "external", "The autoscaler beside this file reads what callers meet, and not the CPU."
        )
    rules = pod_rules(values)
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": values.metadata(plan.name, annotations=annotations),
        "spec": {
            "predictor": {
                "minReplicas": values.least,
                "maxReplicas": values.most,
                **rules,
                "model": {
                    "modelFormat": {"name": f"mlserve-{plan.model.backend}", "version": "1"},
                    "runtime": runtime_name(plan),
                    "protocolVersion": "v2",
                    "storageUri": Noted(
                        str(setup.volume), f"It is at {MOUNTED}, and holds folders of versions."
                    ),
                },
            }
        },
    }


def _require_possible(plan: DeployPlan, setup: ClusterSetup) -> None:
    require_memory(plan)
    if setup.volume is None:
        raise UsageError(
            "a server of KServe gets its model from a storage",
            hint="name it: --artifacts pvc://CLAIM/FOLDER, oci://IMAGE or oci+native://IMAGE",
        )
    for name, why in (
        ("config_map", "each InferenceService brings its model"),
        ("gateway", "KServe writes the routes itself"),
    ):
        if getattr(setup, name):
            raise UsageError(
                f"{flag_of(name)} is not for KServe: {why}", hint=f"leave {flag_of(name)} out"
            )
    if plan.has_tls:
        raise UsageError(
            "--tls-cert does not go with KServe, whose own parts speak to the server in the clear",
            hint="leave it out, and let the gateway or a mesh encrypt",
        )
