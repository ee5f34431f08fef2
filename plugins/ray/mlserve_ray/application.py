"""The application on Ray Serve: where replicas are placed, how many, and how they end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from mlserve.cluster_options import ClusterOptions
from mlserve.errors import Unavailable
from mlserve_ray import policy
from mlserve_ray.cluster import front_resource
from mlserve_ray.replica import Keeper, ReplicaPlan
from mlserve_ray.reports import Answer, Load, Report
from mlserve_ray.roster import NAMESPACE, Roster, roster_name

_ROSTER_SECONDS = 5.0
UPSCALE_DELAY = 1.0
_LOOK_BACK = 5.0
_REPORT_SECONDS = "1"
_A_LITTLE = 0.001


class RosterLink:
    """The roster, as a replica reaches it. The name is looked up anew for each link."""

    def __init__(self, server: str) -> None:
        self._actor: Any = ray.get_actor(roster_name(server), namespace=NAMESPACE)

    def report(self, report: Report, lines: Sequence[str], lost: int) -> Answer:
        """Report, and return what is wanted. Raises what Ray raises."""
        answer: Answer = ray.get(
            self._actor.report.remote(report, lines, lost), timeout=_ROSTER_SECONDS
        )
        return answer

    def leave(self, replica: str, lines: Sequence[str]) -> None:
        """Say that the replica has ended. Raises what Ray raises."""
        ray.get(self._actor.leave.remote(replica, lines), timeout=_ROSTER_SECONDS)


class Replica:
    """What Ray Serve makes, checks and ends on a node. No request of a client comes here."""

    def __init__(self, plan: ReplicaPlan) -> None:
        """Return when its server is ready. Raises the error that keeps it from that."""
        context = serve.get_replica_context()
        self._keeper = Keeper(
            plan,
            context.replica_id.unique_id,
            ray.util.get_node_ip_address(),
            lambda: RosterLink(plan.server),
            ray.get,
            lambda: delete(plan.server),
        )
        self._before = Load()
        self._before_at = time.monotonic()
        self._keeper.start()
        self._keeper.wait_settled()

    def __call__(self) -> None:
        """Raise Unavailable: requests go to the address of the server."""
        raise Unavailable("replicas take no requests through Ray", hint="ask the server's address")

    def check_health(self) -> None:
        """Raise the error for which another replica should take its place."""
        self._keeper.require_alive()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what `policy` goes by."""
        load, now = self._keeper.load, time.monotonic()
        before, seconds = self._before, max(now - self._before_at, 1e-3)
        self._before, self._before_at = load, now
        refused = max(0, load.refused - before.refused)
        asked = max(0, load.requests - before.requests)
        return {
            policy.REFUSED: refused / seconds,
            policy.ANSWERED: max(0, asked - refused) / seconds,
            policy.WAIT: load.wait,
            policy.BUSY: load.busy,
        }

    def __del__(self) -> None:
        """Drain: Ray Serve calls this when it ends the replica, and waits."""
        keeper: Keeper | None = getattr(self, "_keeper", None)
        if keeper is not None:
            keeper.end()


def application_name(server: str) -> str:
    """Return the name of the application for the server of that name."""
    return f"mlserve-{server}"


def start_roster(server: str) -> Any:
    """Return the roster of that server: the one that runs, or one that is started.

    It runs on the front's node: what another node's death would take away is not its business.
    """
    return (
        ray.remote(Roster)
        .options(
            name=roster_name(server),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=10_000,
            resources={front_resource(server): _A_LITTLE},
        )
        .remote()
    )


def is_deployed(server: str) -> bool:
    """Return whether Ray Serve has the application: it may well outlive a front."""
    status = serve.status().applications.get(application_name(server))
    return status is not None and status.status in ("RUNNING", "DEPLOYING", "UNHEALTHY")


def end_orphans(server: str) -> None:
    """End the replicas of a front that was killed, and return when they are gone."""
    if is_deployed(server):
        serve.delete(application_name(server))


def deploy(plan: ReplicaPlan, options: ClusterOptions, downscale_delay: float) -> None:
    """Have Ray Serve place the replicas, or change how many there are; return at once."""
    serve.start(proxy_location="Disabled")
    scaling: dict[str, Any] = {"num_replicas": options.least}
    if options.most > options.least:
        scaling = {"autoscaling_config": _autoscaling(options, downscale_delay)}
    deployment = serve.deployment(
        Replica,
        name="Replica",
        ray_actor_options={
            "num_cpus": options.cpus_per_replica,
            "num_gpus": options.gpus_per_replica,
            "runtime_env": {
                "env_vars": {
                    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": _REPORT_SECONDS,
                }
            },
        },
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=plan.drain_timeout + 15,
        **scaling,
    )
    serve._run(  # noqa: SLF001 - `run` waits until all replicas are ready
        deployment.bind(plan),
        _blocking=False,
        name=application_name(plan.server),
        route_prefix=None,
    )


def _autoscaling(options: ClusterOptions, downscale_delay: float) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=options.least,
        initial_replicas=options.least,
        max_replicas=options.most,
        upscale_delay_s=UPSCALE_DELAY,
        downscale_delay_s=downscale_delay,
        look_back_period_s=_LOOK_BACK,
        metrics_interval_s=1,
        policy=AutoscalingPolicy(policy_function=policy.replicas_wanted),
    )


def wanted_replicas(server: str) -> int | None:
    """Return how many replicas Ray Serve wants now; None if it does not say."""
    status = serve.status().applications.get(application_name(server))
    if status is None:
        return None
    found = [deployment.replica_states for deployment in status.deployments.values()]
    return sum(sum(states.values()) for states in found)


def trouble(server: str) -> str:
    """Return what Ray Serve says is wrong with the replicas; empty if nothing."""
    status = serve.status().applications.get(application_name(server))
    if status is None:
        return ""
    said = [d.message for d in status.deployments.values() if d.message]
    return " ".join(said) if "FAILED" in str(status.status) else ""


def delete(server: str) -> None:
    """Have Ray Serve end the replicas, each after its drain; return at once."""
    serve.delete(application_name(server), _blocking=False)
