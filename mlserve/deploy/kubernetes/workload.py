"""The Deployment: what runs in a pod, with which rights, and how it starts and stops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlserve.deploy.artifacts import Artifacts, Scheme
from mlserve.deploy.kubernetes.values import STARTUP_PERIOD, ClusterSetup, Values
from mlserve.deploy.plan import FILES, MODELS, SERVER_COMMAND, DeployPlan
from mlserve.deploy.yaml_text import Noted, When

USER = 10001
"""User and group of the server in every image of `mlserve build` and docker/."""
CONFIG = "/etc/mlserve"
"""Where the ConfigMap with mlserve.toml is mounted."""
_READ_BY_GROUP = 0o440
_TMP_SIZE = "256Mi"
_CONTAINER = "server"


def deployment(plan: DeployPlan, setup: ClusterSetup, values: Values) -> Any:
    """Return the Deployment; one that scales leaves the number of replicas to its autoscaler."""
    replicas = {} if values.replicas is None else {"replicas": values.replicas}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": values.metadata(),
        "spec": {
            **replicas,
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": Noted(
                values.progress, "Longer than a pod may take to be ready (--wait)."
            ),
            "strategy": Noted(
                {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "No replica goes before its successor is ready, which needs room for one more.",
            ),
            "selector": {"matchLabels": values.selector},
            "template": {
                "metadata": {"labels": values.selector, **_annotations(values)},
                "spec": _pod(plan, setup, values),
            },
        },
    }


def _annotations(values: Values) -> dict[str, Any]:
    return {"annotations": values.annotations} if values.annotations else {}


def _pod(plan: DeployPlan, setup: ClusterSetup, values: Values) -> dict[str, Any]:
    volumes = [
        *own_volumes(plan, values),
        *_config_volumes(setup, values),
        *_model_volumes(setup.volume),
    ]
    return {
        **pod_rules(values),
        **values.pod,
        "containers": [_container(plan, setup, values)],
        "volumes": volumes,
    }


def pod_rules(values: Values) -> dict[str, Any]:
    """Return the rights of a pod, where it runs, and how long it may take to stop."""
    return {
        "automountServiceAccountToken": Noted(False, "The server asks the cluster for nothing."),
        "enableServiceLinks": Noted(
            False, "Or each Service in the namespace would set variables, some named MLSERVE_..."
        ),
        "terminationGracePeriodSeconds": Noted(
            values.grace, "preStop, --drain-timeout, and a few seconds to unload the models."
        ),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": Noted(USER, "The group that may read the mounted files."),
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            _spread("kubernetes.io/hostname", values),
            _spread("topology.kubernetes.io/zone", values),
        ],
    }


def _spread(key: str, values: Values) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": values.selector},
    }


def _container(plan: DeployPlan, setup: ClusterSetup, values: Values) -> dict[str, Any]:
    return {
        "name": _CONTAINER,
        **served(plan, values, {"grpc": plan.grpc_port, "rest": plan.rest_port}),
        "volumeMounts": [
            *own_mounts(plan),
            *_config_mounts(setup),
            *_model_mounts(plan, setup.volume),
        ],
    }


def served(plan: DeployPlan, values: Values, ports: Mapping[str, int]) -> dict[str, Any]:
    """Return a container but for its name and mounts; `ports` are by their names."""
    return {
        "image": values.image,
        "command": list(SERVER_COMMAND),
        "args": values.arguments,
        "env": environment() if values.env is None else values.env,
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "resources": resources(values),
        **probes(plan, values),
        **_lifecycle(values),
        "terminationMessagePolicy": Noted(
            "FallbackToLogsOnError", "So that `kubectl describe pod` shows why it ended."
        ),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _lifecycle(values: Values) -> dict[str, Any]:
    """Return the wait before SIGTERM; none for 0 s, which Kubernetes refuses before 1.33."""
    wait = values.pre_stop
    if isinstance(wait, When):
        return {"lifecycle": When(_pre_stop(wait.value), wait.condition)}
    return {"lifecycle": _pre_stop(wait)} if wait else {}


def _pre_stop(seconds: Any) -> Noted:
    return Noted(
        {"preStop": {"sleep": {"seconds": seconds}}},
        "The pod is told to stop at the same time as those who send to it. It goes on taking "
        "requests until they have heard; then SIGTERM comes, and it drains.",
    )


def environment() -> list[dict[str, str]]:
    """Return the variables of the container: all that is written goes below /tmp."""
    return [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108 - in the container
        {"name": "MLSERVE_HOME", "value": "/tmp/mlserve"},  # noqa: S108 - in the container
        {"name": "PYTHONUNBUFFERED", "value": "1"},
    ]


def resources(values: Values) -> Any:
    """Return what a replica always has, and no more: it promises its answers on that."""
    each: dict[str, Any] = {"cpu": values.cpus, "memory": values.memory}
    if values.gpus:
        each["nvidia.com/gpu"] = values.gpus
    return Noted(
        {"requests": each, "limits": each},
        "Both the same: the server promises answers by the CPUs that it has. --threads follows "
        "the CPUs.",
    )


def probes(plan: DeployPlan, values: Values) -> dict[str, Any]:
    """Return the three probes: none needs a token, and none runs the model."""
    return {
        "startupProbe": Noted(
            {
                "httpGet": _get(plan, "ready"),
                "periodSeconds": STARTUP_PERIOD,
                "timeoutSeconds": 2,
                "failureThreshold": values.startup_checks,
            },
            "Until the models are loaded; after that many failures the pod is started again.",
        ),
        "readinessProbe": Noted(
            {
                "httpGet": _get(plan, "ready"),
                "periodSeconds": 2,
                "timeoutSeconds": 2,
                "failureThreshold": 2,
            },
            "Fails while a model is absent, and from the first moment of the drain.",
        ),
        "livenessProbe": Noted(
            {
                "httpGet": _get(plan, "live"),
                "periodSeconds": 10,
                "timeoutSeconds": 5,
                "failureThreshold": 6,
            },
            "A busy server answers it at once, so it fails only for one that hangs.",
        ),
    }


def _get(plan: DeployPlan, what: str) -> dict[str, Any]:
    scheme = {"scheme": "HTTPS"} if plan.has_tls else {}
    return {"path": f"/v2/health/{what}", "port": plan.rest_port, **scheme}


def own_volumes(plan: DeployPlan, values: Values) -> list[Any]:
    """Return the volumes of what the server writes, and of the files that its settings name."""
    volumes: list[Any] = [{"name": "tmp", "emptyDir": {"sizeLimit": _TMP_SIZE}}]
    if plan.files:
        secret = {"secretName": values.secret_name, "defaultMode": _READ_BY_GROUP}
        volumes.append({"name": "access", "secret": secret})
    return volumes


def own_mounts(plan: DeployPlan) -> list[Any]:
    """Return where a container mounts these volumes."""
    mounts: list[Any] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - in the container
    if plan.files:
        mounts.append({"name": "access", "mountPath": str(FILES), "readOnly": True})
    return mounts


def _config_volumes(setup: ClusterSetup, values: Values) -> list[Any]:
    if not setup.config_map:
        return []
    return [{"name": "config", "configMap": {"name": values.config_name}}]


def _config_mounts(setup: ClusterSetup) -> list[Any]:
    if not setup.config_map:
        return []
    return [
        Noted(
            {"name": "config", "mountPath": CONFIG, "readOnly": True},
            "The whole folder: a single file by subPath would never change.",
        )
    ]


def _model_volumes(artifacts: Artifacts | None) -> list[Any]:
    if artifacts is None:
        return []
    if artifacts.scheme is Scheme.PVC:
        claim = {"claimName": artifacts.name, "readOnly": True}
        return [{"name": "models", "persistentVolumeClaim": claim}]
    image = {"reference": artifacts.name, "pullPolicy": "IfNotPresent"}
    return [
        Noted(
            {"name": "models", "image": image},
            "An image as a volume: Kubernetes 1.35, or 1.33 with the feature gate ImageVolume.",
        )
    ]


def _model_mounts(plan: DeployPlan, artifacts: Artifacts | None) -> list[Any]:
    if artifacts is None:
        return []
    mount: dict[str, Any] = {"name": "models", "readOnly": True}
    if artifacts.scheme is Scheme.PVC:
        folder = {"subPath": artifacts.folder} if artifacts.folder else {}
        return [{**mount, "mountPath": str(plan.base_path_inside), **folder}]
    return [{**mount, "mountPath": str(MODELS), "subPath": MODELS.name}]
