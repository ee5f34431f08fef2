"""How many replicas run: by what callers meet, refusals and waits.

Those say that more replicas are needed, and not how many are enough: at 90 % of its capacity a
server refuses nobody, and nobody waits long. So two more numbers hold the replicas of a server that
does well under load: busy slots, and CPUs. Slots alone would not do: calls that share all threads
are few at a time until shortly before an overload. CPUs alone would not either, as a model may wait
for a GPU. The largest answer of all counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlserve.admission.verdicts import Refusal
from mlserve.deploy.kubernetes.values import BUSY_SHARE, Values
from mlserve.deploy.yaml_text import Noted

CAPACITY = (
    *(Refusal.QUEUE_FULL, Refusal.MEMORY, Refusal.DEADLINE, Refusal.PATIENCE),
    *(Refusal.SHED, Refusal.DISPLACED, Refusal.EXPIRED),
)
"""Refusals that another replica would have spared: not those of a quota, a drain or a bad call."""
WORK_STAGES = ("decode", "run", "encode")
"""The stages of a request that hold a slot."""
_WINDOW = "1m"
_REFUSALS_A_SECOND = "0.1"
_POLL_SECONDS = 15


@dataclass(frozen=True, slots=True)
class ScaledMetric:
    """A number by replica. `series` is the metric of `/metrics` that it is made of."""

    name: str
    series: str
    selector: str
    is_rate: bool

    def query(self, labels: str) -> str:
        """Return the query of its sum over the pods that the labels choose."""
        inside = ",".join(filter(None, (labels, self.selector)))
        picked = f"{self.series}{{{inside}}}"
        return f"sum(rate({picked}[{_WINDOW}]))" if self.is_rate else f"sum({picked})"


REFUSALS = ScaledMetric(
    "mlserve_capacity_refusals_per_second",
    "mlserve_refused_total",
    f'reason=~"{"|".join(CAPACITY)}"',
    is_rate=True,
)
WAIT = ScaledMetric(
    "mlserve_predicted_wait_seconds", "mlserve_predicted_wait_seconds", "", is_rate=False
)
BUSY = ScaledMetric(
    "mlserve_busy_slots",
    "mlserve_stage_duration_seconds_sum",
    f'stage=~"{"|".join(WORK_STAGES)}"',
    is_rate=True,
)
METRICS = (REFUSALS, WAIT, BUSY)
_CPU_PERCENT = round(100 * BUSY_SHARE)
_CPU_NOTE = "Percent of the CPUs of a replica: with the slots, it says how many are enough."


def _targets(values: Values) -> dict[ScaledMetric, Any]:
    return {
        REFUSALS: Noted(_REFUSALS_A_SECOND, "Refusals that another replica would have spared."),
        WAIT: Noted(values.wait_target, "Seconds that a request which comes now would wait."),
        BUSY: Noted(
            values.busy_target, "Busy slots: enough of them stay free for a burst of requests."
        ),
    }


def horizontal_autoscaler(values: Values) -> Any:
    """Return the HorizontalPodAutoscaler; it reads what `adapter_rules` provides."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": values.metadata(),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": values.name},
            "minReplicas": values.least,
            "maxReplicas": values.most,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": metric.name},
                        "target": {"type": "AverageValue", "averageValue": target},
                    },
                }
                for metric, target in _targets(values).items()
            ]
            + [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {
                            "type": "Utilization",
                            "averageUtilization": Noted(_CPU_PERCENT, _CPU_NOTE),
                        },
                    },
                }
            ],
            "behavior": _behavior(),
        },
    }


def _behavior() -> dict[str, Any]:
    return {
        "scaleUp": Noted(
            {
                "stabilizationWindowSeconds": 0,
                "policies": [{"type": "Percent", "value": 100, "periodSeconds": 30}],
            },
            "A number of refusals says that replicas are absent, and not how many: so it doubles "
            "them at most, and looks again.",
        ),
        "scaleDown": {
            "stabilizationWindowSeconds": 300,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }


def scaled_object(values: Values) -> Any:
    """Return the ScaledObject, with which KEDA asks Prometheus itself."""
    labels = f'service="{values.name}"'
    if values.namespace_asked is not None:
        labels = f'namespace="{values.namespace_asked}",{labels}'
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": values.metadata(),
        "spec": {
            "scaleTargetRef": {"name": values.name},
            "minReplicaCount": values.least,
            "maxReplicaCount": values.most,
            "pollingInterval": _POLL_SECONDS,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior()}},
            "triggers": [
                *(_trigger(m, target, values, labels) for m, target in _targets(values).items()),
                {
                    "type": "cpu",
                    "metricType": "Utilization",
                    "metadata": {"value": Noted(str(_CPU_PERCENT), _CPU_NOTE)},
                },
            ],
        },
    }


def _trigger(metric: ScaledMetric, target: Any, values: Values, labels: str) -> Any:
    return {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": values.prometheus,
            "query": metric.query(labels),
            "threshold": target,
        },
    }


def adapter_rules(metrics: Sequence[ScaledMetric] = METRICS) -> Mapping[str, Any]:
    """Return the rules of prometheus-adapter, as its chart takes them, that give an HPA these."""
    return {"rules": {"custom": [_rule(metric) for metric in metrics]}}


def _rule(metric: ScaledMetric) -> dict[str, Any]:
    inside = ",".join(filter(None, ("<<.LabelMatchers>>", metric.selector)))
    picked = f"<<.Series>>{{{inside}}}"
    summed = f"rate({picked}[{_WINDOW}])" if metric.is_rate else picked
    return {
        "seriesQuery": f'{metric.series}{{namespace!="",pod!=""}}',
        "resources": {
            "overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}
        },
        "name": {"as": metric.name},
        "metricsQuery": f"sum({summed}) by (<<.GroupBy>>)",
    }
