"""The autoscaler's numbers under a step of load, by the rule that Kubernetes documents for an HPA.

What a replica shows under a load is computed, not measured: it works on SLOTS calls at once, and
refuses what is more than it can do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from mlserve.deploy.kubernetes.manifests import manifest_files
from mlserve.deploy.kubernetes.values import ClusterSetup
from tests.deploy.conftest import MakePlan
from tests.harness.deployed import read_manifests

SYNC = 15
"""Seconds between two decisions of the HPA."""
TOLERANCE = 0.1
READY_AFTER = 30
"""Seconds until a new pod serves."""
RATE = 50.0
"""Requests a second that one replica can answer."""
SLOTS = 8

Shown = Mapping[str, float]


def _sharing(use: float) -> float:
    """Return the mean number of calls at work where each call uses all threads."""
    use = min(use, 1.0)
    return sum(use**place for place in range(1, SLOTS + 1))


def _apart(use: float) -> float:
    """Return the same where each call uses one of them."""
    return SLOTS * min(use, 1.0)


MODELS: dict[str, tuple[Callable[[float], float], float]] = {
    "calls that share the threads": (_sharing, 1.0),
    "calls of one thread each": (_apart, 1.0),
    "calls that wait for a GPU": (_apart, 0.05),
}
"""The busy slots by use, and the share of the CPUs that a busy replica uses."""


@dataclass
class Cluster:
    """An HPA and the pods that it asks for, one decision after the other."""

    scaler: dict[str, Any]
    busy: Callable[[float], float]
    cpu: float
    now: float = 0.0
    pods: int = 1
    serving: int = 1
    started: list[float] = field(default_factory=list)
    wishes: list[tuple[float, int]] = field(default_factory=list)
    changes: list[tuple[float, int]] = field(default_factory=list)
    offered: float = 0.0
    lost: float = 0.0

    def shown(self, load: float) -> Shown:
        """Return what each replica shows of a load, in replicas that it would keep busy."""
        use = load / self.serving
        return {
            "mlserve_capacity_refusals_per_second": max(0.0, use - 1) * RATE,
            "mlserve_predicted_wait_seconds": 1.0 if use > 1 else 0.0,
            "mlserve_busy_slots": self.busy(use),
            "cpu": 100 * self.cpu * min(use, 1.0),
        }

    def step(self, load: float) -> None:
        """Let a period go by under that load, and decide."""
        self.now += SYNC
        ready = [began for began in self.started if began + READY_AFTER <= self.now]
        self.serving += len(ready)
        self.started = [began for began in self.started if began + READY_AFTER > self.now]
        self.offered += load * RATE * SYNC
        self.lost += max(0.0, load - self.serving) * RATE * SYNC
        shown = self.shown(load)
        wish = max(self._wish(shown[name], target) for name, target in self._targets())
        self._scale(min(max(wish, self.scaler["minReplicas"]), self.scaler["maxReplicas"]))

    def _targets(self) -> list[tuple[str, float]]:
        found = []
        for metric in self.scaler["metrics"]:
            if metric["type"] == "Pods":
                pods = metric["pods"]
                found.append((pods["metric"]["name"], float(pods["target"]["averageValue"])))
            else:
                target = metric["resource"]["target"]["averageUtilization"]
                found.append((metric["resource"]["name"], float(target)))
        return found

    def _wish(self, value: float, target: float) -> int:
        ratio = value / target
        if abs(ratio - 1) <= TOLERANCE:
            return self.pods
        # Pods that are not ready yet count as idle when there are to be more.
        counted = self.serving if ratio > 1 else self.pods
        return math.ceil(ratio * counted) if ratio > 1 else math.ceil(ratio * self.serving)

    def _scale(self, wish: int) -> None:
        up, down = (self.scaler["behavior"][name] for name in ("scaleUp", "scaleDown"))
        self.wishes.append((self.now, wish))
        window = down["stabilizationWindowSeconds"]
        held = max(each for when, each in self.wishes if when > self.now - window)
        if wish > self.pods:
            [policy] = up["policies"]
            before = self._before(policy["periodSeconds"])
            most = math.ceil(before * (1 + policy["value"] / 100))
            self._become(max(self.pods, min(wish, most)))
        elif held < self.pods:
            [policy] = down["policies"]
            least = self._before(policy["periodSeconds"]) - policy["value"]
            self._become(min(self.pods, max(held, least)))

    def _before(self, seconds: float) -> int:
        """Return the pods that there were that many seconds ago."""
        return self.pods - sum(by for when, by in self.changes if when > self.now - seconds)

    def _become(self, pods: int) -> None:
        self.changes.append((self.now, pods - self.pods))
        if pods > self.pods:
            self.started += [self.now] * (pods - self.pods)
        else:
            self.serving -= self.pods - pods
        self.pods = pods


def test_slots_alone_would_not_hold_the_replicas(make_plan: MakePlan) -> None:
    """Calls that share the threads are few at a time until shortly before an overload."""
    found = read_manifests(manifest_files(make_plan(replicas="1..8", cpus=8.0), ClusterSetup()))
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    scaler["metrics"] = [each for each in scaler["metrics"] if each["type"] == "Pods"]
    cluster = Cluster(scaler, *MODELS["calls that share the threads"])

    for _ in range(240):
        cluster.step(3.2)
    cluster.lost = 0.0
    seen = set()
    for _ in range(240):
        cluster.step(3.2)
        seen.add(cluster.pods)

    assert len(seen) > 1, "it swings"
    assert cluster.lost > 0


@pytest.mark.parametrize("kind", MODELS)
def test_a_step_of_load_is_followed_held_and_given_back(make_plan: MakePlan, kind: str) -> None:
    plan = make_plan(replicas="1..8", cpus=float(SLOTS))
    found = read_manifests(manifest_files(plan, ClusterSetup()))
    cluster = Cluster(found["HorizontalPodAutoscaler"]["spec"], *MODELS[kind])

    for _ in range(20):
        cluster.step(0.3)
    assert cluster.pods == 1
    while cluster.serving < 4:
        cluster.step(3.2)
    assert cluster.now <= 20 * SYNC + 150
    cluster.offered = cluster.lost = 0.0
    seen = []
    for _ in range(240):  # an hour
        cluster.step(3.2)
        seen.append(cluster.pods)
    assert cluster.lost == 0
    assert max(seen[120:]) == min(seen[120:]) <= 6
    while cluster.pods > 1:
        cluster.step(0.3)
    assert cluster.now <= 20 * SYNC + 150 + 3600 + 900
