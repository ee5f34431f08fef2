"""The Helm chart of a server: the manifests of `mlserve.deploy.kubernetes`, with values in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mlserve import __version__
from mlserve.deploy.artifacts import Artifacts, Scheme
from mlserve.deploy.kubernetes.configuration import (
    config_text,
    secret_command,
    server_arguments,
)
from mlserve.deploy.kubernetes.manifests import comment_of, every_object, require_possible
from mlserve.deploy.kubernetes.scaling import adapter_rules
from mlserve.deploy.kubernetes.values import (
    BUSY_SHARE,
    PROGRESS_SPARE_SECONDS,
    SPARE_SECONDS,
    STARTUP_PERIOD,
    Autoscaler,
    ClusterSetup,
    Part,
    Values,
    calls_at_once,
    gateway_of,
    names_in,
)
from mlserve.deploy.kubernetes.workload import environment
from mlserve.deploy.plan import DeployPlan, memory_text
from mlserve.deploy.writing import MARK
from mlserve.deploy.yaml_text import Noted, Raw, When, yaml_text
from mlserve.errors import UsageError

COMMAND = "helm"
_MADE = ("--threads=", "--drain-timeout=")
"""Arguments that the templates make of values."""
_RELEASE = "{{ .Release.Name }}"
_SCALES = ".Values.autoscaling.enabled"
_ALLOWED = (
    "ternary (append .Values.networkPolicy.allowNamespaces .Values.gateway.namespace) "
    ".Values.networkPolicy.allowNamespaces "
    '(and .Values.gateway.enabled (ne .Values.gateway.namespace "")) | uniq | toJson'
)
"""The namespaces that may connect: those named, and the gateway's own."""
_CONDITIONS = {
    "hpa": f'and {_SCALES} (eq .Values.autoscaling.kind "{Autoscaler.HPA}")',
    "scaledobject": f'and {_SCALES} (eq .Values.autoscaling.kind "{Autoscaler.KEDA}")',
    "pdb": ".Values.disruptionBudget.enabled",
    "networkpolicy": ".Values.networkPolicy.enabled",
    "servicemonitor": ".Values.serviceMonitor.enabled",
    "httproute": ".Values.gateway.enabled",
    "grpcroute": ".Values.gateway.enabled",
}
"""When the object of a template is made."""


def chart_files(plan: DeployPlan, setup: ClusterSetup) -> dict[str, str]:
    """Return the texts of all files of the chart by their paths.

    Raises UsageError for what a cluster or a chart cannot do.
    """
    require_possible(plan, setup)
    if setup.namespace is not None:
        raise UsageError(
            "--namespace does not go with a chart: Helm chooses where it is installed",
            hint=f"helm install {plan.name} DIR --namespace {setup.namespace}",
        )
    return {
        "Chart.yaml": yaml_text(_chart(plan), f"{MARK} {COMMAND}`."),
        "values.yaml": yaml_text(_values(plan, setup), f"{MARK} {COMMAND}`."),
        "values.schema.json": json.dumps(_schema(plan, setup), indent=2) + "\n",
        "prometheus-adapter-values.yaml": yaml_text(
            adapter_rules(),
            f"{MARK} {COMMAND}`: rules for the chart of prometheus-adapter, which gives the HPA "
            "its numbers.",
        ),
        ".helmignore": f"# {MARK} {COMMAND}`.\nprometheus-adapter-values.yaml\n",
        **{f"templates/{name}": text for name, text in _templates(plan, setup)},
    }


def _chart(plan: DeployPlan) -> dict[str, Any]:
    model = plan.model
    return {
        "apiVersion": "v2",
        "name": plan.name,
        "description": f"{model.model} ({model.backend}) behind mlserve's server",
        "type": "application",
        "version": f"0.{model.expected[-1]}.0",
        "appVersion": __version__,
        "kubeVersion": Noted(">=1.30.0-0", "preStop.sleep."),
    }


def _values(plan: DeployPlan, setup: ClusterSetup) -> dict[str, Any]:
    plain = [each for each in _arguments(plan, setup) if not each.startswith(_MADE)]
    gateway = gateway_of(setup)
    left_out = setup.left_out
    return {
        "image": plan.image,
        "cpus": Noted(_number(plan.cpus), "CPUs of a replica, always; the threads follow."),
        "memory": Noted(memory_text(plan.memory), "Measure it under load."),
        **({"gpus": plan.gpus} if plan.gpus else {}),
        "threads": Noted(plan.model.options.threads, "null: as many as the CPUs."),
        "arguments": Noted(plain, "Of the server, beside --threads and --drain-timeout."),
        "drainTimeoutSeconds": Noted(
            _number(plan.settings.drain_timeout), "The grace period of the pods follows."
        ),
        "preStopSeconds": setup.pre_stop,
        "readyWithinSeconds": _number(plan.wait),
        "replicas": {"least": plan.least, "most": plan.most},
        "autoscaling": {
            "enabled": setup.scales(plan),
            "kind": Noted(setup.autoscaler.value, "hpa, with prometheus-adapter; or keda."),
            "targetWaitSeconds": _number(setup.target_wait),
            "busySlots": Noted(None, f"null: {BUSY_SHARE:g} of what a replica does at once."),
            "prometheus": setup.prometheus,
        },
        "disruptionBudget": {"enabled": Part.BUDGET not in left_out},
        "networkPolicy": {
            "enabled": Part.NETWORK_POLICY not in left_out,
            "allowNamespaces": names_in(setup.allow_namespaces),
        },
        "serviceMonitor": {
            "enabled": Noted(Part.MONITOR not in left_out, "It needs Prometheus's operator."),
            "labels": Noted({}, "Many a Prometheus takes only those with a label of its own."),
        },
        "gateway": {
            "enabled": Noted(bool(gateway), "Routes of the Gateway API."),
            "name": gateway.get("name", ""),
            "namespace": gateway.get("namespace", ""),
            "hostnames": names_in(setup.hostnames),
        },
        **_artifact_values(setup.volume),
        "env": Noted([], "Variables of the container, besides its own."),
        "podAnnotations": {},
        "nodeSelector": {},
        "affinity": {},
        "tolerations": [],
        "imagePullSecrets": [],
    }


def _artifact_values(artifacts: Artifacts | None) -> dict[str, Any]:
    if artifacts is None:
        return {}
    if artifacts.scheme is Scheme.PVC:
        return {"artifacts": {"claim": artifacts.name, "folder": artifacts.folder}}
    return {"artifacts": {"image": artifacts.name}}


def _arguments(plan: DeployPlan, setup: ClusterSetup) -> list[str]:
    return server_arguments(plan, setup)


def _number(value: float) -> float:
    return int(value) if value == int(value) else value


def _schema(plan: DeployPlan, setup: ClusterSetup) -> dict[str, Any]:
    """Return the schema of the values: names, types and least values."""
    values = _values(plan, setup)
    # `--set cpus=0.5` gives a text: Helm reads whole numbers only.
    number = {"type": ["number", "string"], "pattern": "^[0-9]+([.][0-9]+)?$"}
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    bounds: dict[str, dict[str, Any]] = {
        "cpus": {**number, "exclusiveMinimum": 0},
        "threads": {"type": ["integer", "null"], "minimum": 1},
        "memory": {"type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)?$"},
        "drainTimeoutSeconds": {**number, "minimum": 0},
        "preStopSeconds": {"type": "integer", "minimum": 0},
        "readyWithinSeconds": {**number, "minimum": 1},
        "least": {"type": "integer", "minimum": 1},
        "most": {"type": "integer", "minimum": 1},
        "kind": {"enum": [each.value for each in Autoscaler]},
        "targetWaitSeconds": {**number, "exclusiveMinimum": 0},
        "busySlots": {**number, "type": ["number", "string", "null"], "exclusiveMinimum": 0},
        "env": {"type": "array", "items": {"type": "object", "required": ["name"]}},
        "labels": texts,
        "podAnnotations": texts,
        "nodeSelector": texts,
        "affinity": {"type": "object"},
        "tolerations": {"type": "array", "items": {"type": "object"}},
        "imagePullSecrets": {"type": "array", "items": {"type": "object"}},
    }
    return {
        "$comment": f"{MARK} {COMMAND}`.",
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_shape(values, bounds),
    }


def _shape(value: Any, bounds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of a value as it is, but where a bound names its key."""
    if isinstance(value, Noted):
        value = value.value
    match value:
        case dict():
            properties = {key: bounds.get(key) or _shape(v, bounds) for key, v in value.items()}
            # Helm passes on what a chart that includes this one calls global.
            properties |= {"global": {"type": "object"}} if "image" in value else {}
            return {"type": "object", "additionalProperties": False, "properties": properties}
        case list():
            return {"type": "array", "items": {"type": "string"}}
        case bool():
            return {"type": "boolean"}
        case int() | float():
            return {"type": "number", "minimum": 0}
        case _:
            return {"type": "string"}


def _templates(plan: DeployPlan, setup: ClusterSetup) -> Iterator[tuple[str, str]]:
    if setup.config_map and "{{" in config_text(plan):
        raise UsageError(
            "a text of the ConfigMap has {{, which Helm takes for an expression",
            hint="leave --config-map out, or write the text without it",
        )
    yield "_helpers.tpl", _helpers(plan)
    every = every_object(plan, _template_setup(setup), _template_values(plan, setup))
    for name, each in every.items():
        if name == "configmap" and not setup.config_map:
            continue
        text = yaml_text(each.data, comment_of(COMMAND, each))
        condition = _CONDITIONS.get(name)
        if condition is not None:
            text = f"{{{{- if {condition} }}}}\n{text}{{{{- end }}}}\n"
        yield f"{name}.yaml", text
    yield "NOTES.txt", _notes(plan)


def _helpers(plan: DeployPlan) -> str:
    batch = plan.settings.max_batch_size or 1
    at_once = calls_at_once(replace(plan, settings=replace(plan.settings, max_batch_size=None)))
    is_by_threads = at_once == plan.load_options.threads
    slots = '(include "mlserve.threads" . | float64)' if is_by_threads else f"{at_once}.0"
    return f"""\
{{{{/* {MARK} {COMMAND}`. */}}}}
{{{{- define "mlserve.threads" -}}}}
{{{{ .Values.threads | default (ceil .Values.cpus) | int }}}}
{{{{- end }}}}
{{{{- define "mlserve.busySlots" -}}}}
{{{{ .Values.autoscaling.busySlots | default (round (mulf {BUSY_SHARE} {slots} {batch}.0) 3) }}}}
{{{{- end }}}}
"""


def _template_setup(setup: ClusterSetup) -> ClusterSetup:
    """Return the setup whose artifacts are expressions."""
    volume = setup.volume
    if volume is None:
        return setup
    if volume.scheme is Scheme.PVC:
        folder = "/{{ .Values.artifacts.folder }}" if volume.folder else ""
        return replace(setup, artifacts=f"pvc://{{{{ .Values.artifacts.claim }}}}{folder}")
    return replace(setup, artifacts="oci+native://{{ .Values.artifacts.image }}")


def _template_values(plan: DeployPlan, setup: ClusterSetup) -> Values:
    grace = f"add .Values.preStopSeconds (ceil .Values.drainTimeoutSeconds | int) {SPARE_SECONDS}"
    checks = f"max 1 (ceil (divf .Values.readyWithinSeconds {STARTUP_PERIOD}.0) | int)"
    progress = f"add (ceil .Values.readyWithinSeconds | int) {PROGRESS_SPARE_SECONDS}"
    made = (
        '(list (include "mlserve.threads" . | printf "--threads=%s") '
        '(printf "--drain-timeout=%v" .Values.drainTimeoutSeconds))'
    )
    arguments = f"concat .Values.arguments {made} | toYaml | nindent 12"
    if setup.config_map:  # the file has the threads of each model
        arguments = (
            "append .Values.arguments "
            '(printf "--drain-timeout=%v" .Values.drainTimeoutSeconds) | toYaml | nindent 12'
        )
    return Values(
        name=_RELEASE,
        namespace=None,
        namespace_asked="{{ .Release.Namespace }}",
        image="{{ .Values.image }}",
        replicas=When(Raw("{{ .Values.replicas.least }}"), f"not {_SCALES}"),
        least=Raw("{{ .Values.replicas.least }}"),
        most=Raw("{{ .Values.replicas.most }}"),
        cpus=Raw("{{ .Values.cpus | quote }}"),
        memory=Raw("{{ .Values.memory | quote }}"),
        gpus=Raw("{{ .Values.gpus }}") if plan.gpus else 0,
        arguments=Raw(f"{{{{- {arguments} }}}}"),
        pre_stop=When(Raw("{{ .Values.preStopSeconds }}"), ".Values.preStopSeconds"),
        grace=Raw(f"{{{{ {grace} }}}}"),
        progress=Raw(f"{{{{ {progress} }}}}"),
        startup_checks=Raw(f"{{{{ {checks} }}}}"),
        busy_target=Raw('{{ include "mlserve.busySlots" . | quote }}'),
        wait_target=Raw("{{ .Values.autoscaling.targetWaitSeconds | quote }}"),
        prometheus="{{ .Values.autoscaling.prometheus }}",
        allowed=Raw(f"{{{{ {_ALLOWED} }}}}"),
        gateway={
            "name": Raw('{{ required "gateway.name is empty" .Values.gateway.name | quote }}'),
            "namespace": "{{ .Values.gateway.namespace | default .Release.Namespace }}",
        },
        hostnames=Raw("{{ toJson .Values.gateway.hostnames }}"),
        pod={
            key: Raw(f"{{{{ toJson .Values.{key} }}}}")
            for key in ("nodeSelector", "affinity", "tolerations", "imagePullSecrets")
        },
        env=Raw(
            f"{{{{ concat (fromJsonArray `{json.dumps(environment())}`) .Values.env | toJson }}}}"
        ),
        monitor_labels=Raw(
            '{{ merge (dict "app.kubernetes.io/name" "mlserve" "app.kubernetes.io/instance" '
            ".Release.Name) .Values.serviceMonitor.labels | toJson }}"
        ),
        annotations=Raw("{{ toJson .Values.podAnnotations }}"),
    )


def _notes(plan: DeployPlan) -> str:
    scheme, grpcs = ("https", "grpcs") if plan.has_tls else ("http", "grpc")
    command = secret_command(plan, None)
    secret = (
        ""
        if command is None
        else f"""
The pods wait for a Secret:
  {command.replace(f"{plan.name}-access", "{{ .Release.Name }}-access")}
"""
    )
    # A comment of the template holds the mark, so that no user reads it.
    return f"""\
{{{{/* {MARK} {COMMAND}`. */}}}}
{plan.model.model} is served in the namespace {{{{ .Release.Namespace }}}}:
  REST  {scheme}://{{{{ .Release.Name }}}}:{plan.rest_port}
  gRPC  {grpcs}://{{{{ .Release.Name }}}}-grpc:{plan.grpc_port}
        balanced by the client, with round_robin
{secret}
Is it ready?
  kubectl rollout status deployment/{{{{ .Release.Name }}}} --namespace {{{{ .Release.Namespace }}}}
"""
