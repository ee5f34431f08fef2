"""What stands in the manifests: of a plan, or in a chart the expressions that Helm replaces."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mlserve.deploy.artifacts import Artifacts
from mlserve.deploy.plan import DeployPlan, cpus_text, memory_text
from mlserve.errors import UsageError
from mlserve.options import HelpPanel, Options, flag_of, option

SPARE_SECONDS = 5
"""Seconds of the grace period for what comes after the drain: models unload, ports close."""

PROGRESS_SPARE_SECONDS = 480
"""Seconds beyond --wait until a rollout counts as failed: room has to be found, images pulled."""


class Autoscaler(StrEnum):
    """What changes the number of replicas."""

    HPA = "hpa"
    KEDA = "keda"


class Part(StrEnum):
    """A part of the manifests that can be left out."""

    AUTOSCALER = "autoscaler"
    BUDGET = "budget"
    MONITOR = "monitor"
    NETWORK_POLICY = "network-policy"


@dataclass(frozen=True, slots=True)
class ClusterSetup(Options):
    """What only a cluster has: options of `mlserve deploy kubernetes` and its kin.

    Raises UsageError for what does not go together.
    """

    namespace: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.CLUSTER,
            "The namespace of all that is written.",
            unit="name",
            chosen="the one that kubectl uses",
        ),
    )
    artifacts: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.CLUSTER,
            "Where the model's folder of versions is: pvc://CLAIM/FOLDER or oci+native://IMAGE.",
            unit="address",
            chosen="in the image of the server",
        ),
    )
    config_map: bool = field(
        default=False,
        metadata=option(
            HelpPanel.CLUSTER,
            "Write the models into a ConfigMap, which the server follows without a restart.",
        ),
    )
    pre_stop: int = field(
        default=5,
        metadata=option(
            HelpPanel.CLUSTER,
            "Seconds that a pod which is to stop still takes requests, before it drains: those who "
            "send to it hear of that later than the pod.",
            unit="seconds",
            least=0,
        ),
    )
    autoscaler: Autoscaler = field(
        default=Autoscaler.HPA,
        metadata=option(
            HelpPanel.CLUSTER, "What scales MIN..MAX: a HorizontalPodAutoscaler, or KEDA."
        ),
    )
    target_wait: float = field(
        default=0.5,
        metadata=option(
            HelpPanel.CLUSTER,
            "More replicas are started when a request that comes now would wait longer.",
            unit="seconds",
            least=0.001,
        ),
    )
    prometheus: str = field(
        default="http://prometheus-operated.monitoring.svc:9090",
        metadata=option(HelpPanel.CLUSTER, "The Prometheus that KEDA asks.", unit="url"),
    )
    gateway: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.CLUSTER,
            "Write routes of the Gateway API for this gateway, NAME or NAMESPACE/NAME.",
            unit="name",
            chosen="no routes",
        ),
    )
    hostnames: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.CLUSTER, "The host names of these routes.", unit="name,...", chosen="all"
        ),
    )
    allow_namespaces: str = field(
        default="monitoring",
        metadata=option(
            HelpPanel.CLUSTER,
            "Namespaces whose pods may connect, besides those of its own and of the gateway.",
            unit="name,...",
        ),
    )
    without: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.CLUSTER,
            f"What to leave out, of {', '.join(Part)}.",
            unit="part,...",
            chosen="nothing",
        ),
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.hostnames and self.gateway is None:
            raise UsageError("--hostnames needs --gateway", hint="name the gateway: --gateway NAME")
        for part in names_in(self.without):
            if part not in tuple(Part):
                raise UsageError(
                    f"{part!r} is not a valid value of --without",
                    hint=f"give some of {', '.join(Part)}",
                )
        _ = self.volume
        for option_name, pattern, example in (
            ("namespace", _LABEL, "vision"),
            ("gateway", rf"({_LABEL}/)?{_SUBDOMAIN}", "infra/main"),
        ):
            if (text := getattr(self, option_name)) is not None:
                _require(option_name, text, pattern, example)
        for namespace in names_in(self.allow_namespaces):
            _require("allow_namespaces", namespace, _LABEL, "monitoring")
        for hostname in names_in(self.hostnames):
            _require("hostnames", hostname, rf"(\*\.)?{_SUBDOMAIN}", "models.example")

    @property
    def volume(self) -> Artifacts | None:
        """Where the artifacts are, if not in the image. Raises UsageError."""
        return None if self.artifacts is None else Artifacts.parse(self.artifacts)

    @property
    def left_out(self) -> frozenset[Part]:
        """What is left out."""
        return frozenset(map(Part, names_in(self.without)))

    def scales(self, plan: DeployPlan) -> bool:
        """Whether an autoscaler decides how many replicas of the plan run."""
        return plan.most > plan.least and Part.AUTOSCALER not in self.left_out


_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
"""Names as Kubernetes takes them: a part of a host name, and a whole one."""


def _require(option_name: str, text: str, pattern: str, example: str) -> None:
    if re.fullmatch(pattern, text) is None:
        raise UsageError(
            f"{text!r} is not a valid value of {flag_of(option_name)}",
            hint=f"give lower-case letters, digits and dashes, for example {example}",
        )


def names_in(text: str | None) -> list[str]:
    """Return the names of a list with commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


@dataclass(frozen=True, slots=True)
class Values:
    """The texts and numbers of the manifests, each plain or an expression of a template.

    `namespace_asked` is that of the metrics. `replicas` None leaves their number to an autoscaler.
    `arguments` are those of the server. `pod` are further fields of the pod's spec. `env` and
    `monitor_labels` None are the usual ones. `pods` are the labels of pods that another controller
    makes.
    """

    name: str
    namespace: Any
    namespace_asked: str | None
    image: Any
    replicas: Any
    least: Any
    most: Any
    cpus: Any
    memory: Any
    gpus: Any
    arguments: Any
    pre_stop: Any
    grace: Any
    startup_checks: Any
    progress: Any
    busy_target: Any
    wait_target: Any
    prometheus: Any
    allowed: Any
    gateway: Mapping[str, Any]
    hostnames: Any
    pod: Mapping[str, Any] = field(default_factory=dict)
    annotations: Any = None
    env: Any = None
    monitor_labels: Any = None
    pods: Mapping[str, str] | None = None

    @property
    def grpc_name(self) -> str:
        """The name of the headless Service."""
        return f"{self.name}-grpc"

    @property
    def secret_name(self) -> str:
        """The name of the Secret with the token and the certificate."""
        return f"{self.name}-access"

    @property
    def config_name(self) -> str:
        """The name of the ConfigMap with mlserve.toml."""
        return f"{self.name}-config"

    @property
    def selector(self) -> dict[str, str]:
        """The labels that find the pods. They can never change."""
        return self.labels if self.pods is None else dict(self.pods)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of every object."""
        return {"app.kubernetes.io/name": "mlserve", "app.kubernetes.io/instance": self.name}

    def metadata(self, name: str | None = None, **more: Any) -> dict[str, Any]:
        """The metadata of an object."""
        where = {} if self.namespace is None else {"namespace": self.namespace}
        return {"name": name or self.name, **where, "labels": self.labels, **more}


STARTUP_PERIOD = 2
"""Seconds between two looks at a pod that starts."""
BUSY_SHARE = 0.7
"""The share of its time that a replica is to be busy: the rest is for bursts."""


def values_of(plan: DeployPlan, setup: ClusterSetup, arguments: Sequence[str]) -> Values:
    """Return the values of manifests for `kubectl apply`."""
    return Values(
        name=plan.name,
        namespace=setup.namespace,
        namespace_asked=setup.namespace,
        image=plan.image,
        replicas=None if setup.scales(plan) else plan.least,
        least=plan.least,
        most=plan.most,
        cpus=cpus_text(plan.cpus),
        memory=memory_text(plan.memory),
        gpus=plan.gpus,
        arguments=list(arguments),
        pre_stop=setup.pre_stop,
        grace=grace_seconds(setup.pre_stop, plan.settings.drain_timeout),
        startup_checks=startup_checks(plan.wait),
        progress=math.ceil(plan.wait) + PROGRESS_SPARE_SECONDS,
        busy_target=quantity(BUSY_SHARE * calls_at_once(plan)),
        wait_target=quantity(setup.target_wait),
        prometheus=setup.prometheus,
        allowed=allowed_namespaces(setup),
        gateway=gateway_of(setup),
        hostnames=names_in(setup.hostnames),
    )


def grace_seconds(pre_stop: int, drain_timeout: float) -> int:
    """Return the grace period: it has to be longer than all that a pod does when it stops."""
    return pre_stop + math.ceil(drain_timeout) + SPARE_SECONDS


def startup_checks(wait: float) -> int:
    """Return how many checks in a row may fail until a pod that starts is started again."""
    return max(1, math.ceil(wait / STARTUP_PERIOD))


def calls_at_once(plan: DeployPlan) -> int:
    """Return how many calls a replica works on at once: slots, each of a whole batch."""
    slots = plan.load_options.calls_at_once or plan.threads_at_most
    return slots * (plan.settings.max_batch_size or 1)


def quantity(number: float) -> str:
    """Return a number as Kubernetes and KEDA both read it: `0.7`."""
    return f"{number:.4g}"


def allowed_namespaces(setup: ClusterSetup) -> list[str]:
    """Return the namespaces whose pods may connect: those asked for, and the gateway's own."""
    named = [*names_in(setup.allow_namespaces), gateway_of(setup).get("namespace", "")]
    return list(dict.fromkeys(filter(None, named)))


def gateway_of(setup: ClusterSetup) -> dict[str, Any]:
    """Return the reference to the gateway; empty without one."""
    if setup.gateway is None:
        return {}
    namespace, _, name = setup.gateway.rpartition("/")
    return {"name": name, **({"namespace": namespace} if namespace else {})}
