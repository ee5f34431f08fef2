"""The options of a server on a cluster."""

from __future__ import annotations

import pytest

from mlserve.cluster_options import ClusterOptions
from mlserve.errors import UsageError


@pytest.mark.parametrize(("text", "least", "most"), [("1", 1, 1), ("3", 3, 3), ("1..4", 1, 4)])
def test_replicas_are_a_number_or_a_range(text: str, least: int, most: int) -> None:
    options = ClusterOptions(replicas=text)
    assert (options.least, options.most) == (least, most)
    assert ClusterOptions.from_json(options.to_json()) == options


@pytest.mark.parametrize("text", ["0", "0..3", "4..1", "many", "", "-1", "1..", "1...4", "99999"])
def test_other_replicas_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--replicas") as refused:
        ClusterOptions(replicas=text)
    assert "--replicas 1..4" in (refused.value.hint or "")


def test_a_hedge_is_a_percentile() -> None:
    assert ClusterOptions(hedge="p99").hedge_quantile == 0.99
    assert ClusterOptions().hedge_quantile is None
    for text in ("p100", "99", "p9", "p0", ""):
        with pytest.raises(UsageError, match="--hedge"):
            ClusterOptions(hedge=text)
