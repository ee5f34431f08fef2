"""The options of a server that runs as replicas on the machines of a cluster: each defined once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mlserve.errors import UsageError
from mlserve.options import HelpPanel, Options, option

_REPLICAS = re.compile(r"(\d{1,4})(?:\.\.(\d{1,4}))?")


@dataclass(frozen=True, slots=True)
class ClusterOptions(Options):
    """How many replicas of a server run where, for a launcher that has a cluster.

    `replicas` is a number, or the least and the most: `1..4`. `address` is that of a cluster that
    runs; None starts one on this machine. Raises UsageError for replicas that are neither.
    """

    address: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.CLUSTER,
            "The Ray cluster to run on, such as head:6379.",
            unit="host:port",
            chosen="one on this machine, which ends with the server",
        ),
    )
    replicas: str = field(
        default="1",
        metadata=option(
            HelpPanel.CLUSTER,
            "How many replicas run: a number, or MIN..MAX to let the load decide.",
            unit="n|min..max",
        ),
    )
    cpus_per_replica: float = field(
        default=1.0,
        metadata=option(
            HelpPanel.CLUSTER,
            "CPUs that a replica has, such as 2 or 0.5, and threads of its model.",
            unit="n",
            least=0.01,
        ),
    )
    gpus_per_replica: float = field(
        default=0.0,
        metadata=option(
            HelpPanel.CLUSTER, "GPUs that a replica has; 0.5 puts two on one.", unit="n", least=0
        ),
    )
    fetch_from: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.CLUSTER,
            "Where machines without the model's folder fetch it, such as s3://bucket/flowers or "
            "/mnt/models/flowers: a version, or a folder of versions.",
            unit="address",
            chosen="from the machine of this command, through the cluster",
        ),
    )
    hedge: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.CLUSTER,
            "Ask a second replica when an answer takes longer than this share of answers, such as "
            "p99; at most 2 % of requests are asked twice.",
            unit="pNN",
            chosen="never",
        ),
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if not 1 <= self.least <= self.most:
            raise self._not_replicas()
        if self.hedge is not None and self.hedge_quantile is None:
            raise UsageError(
                f"{self.hedge!r} is not a valid value of --hedge",
                hint="give p90, p95, p99 or another whole percentile from p50 to p99",
            )

    @property
    def least(self) -> int:
        """The replicas that always run. Raises UsageError."""
        return self._range()[0]

    @property
    def most(self) -> int:
        """The replicas that run under load. Raises UsageError."""
        return self._range()[1]

    @property
    def hedge_quantile(self) -> float | None:
        """The share of answers after whose time a second replica is asked: 0.99 for p99."""
        match = re.fullmatch(r"p([5-9]\d)", self.hedge or "")
        return int(match[1]) / 100 if match else None

    def _range(self) -> tuple[int, int]:
        match = _REPLICAS.fullmatch(self.replicas)
        if match is None:
            raise self._not_replicas()
        return int(match[1]), int(match[2] or match[1])

    def _not_replicas(self) -> UsageError:
        return UsageError(
            f"{self.replicas!r} is not a valid value of --replicas",
            hint="give a number, or the least and the most: --replicas 1..4",
        )


DEFAULT_CLUSTER = ClusterOptions()
