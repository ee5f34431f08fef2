"""The counters and histograms of a request give what Prometheus's own would give."""

from __future__ import annotations

import prometheus_client
import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from mlserve.server.telemetry.series import Counter, Histogram

BOUNDS = (0.0005, 0.5, 1.0, 16.0)
LABELS = ("model", "stage")


@pytest.mark.parametrize("write", [generate_latest, generate_openmetrics])
def test_the_page_is_the_same(write: object) -> None:
    prometheus_client.disable_created_metrics()
    ours, theirs = (prometheus_client.CollectorRegistry() for _ in range(2))
    counter, histogram = Counter("n", "N.", LABELS), Histogram("s", "S.", LABELS, BOUNDS)
    own = (
        prometheus_client.Counter("n", "N.", LABELS, registry=theirs),
        prometheus_client.Histogram("s", "S.", LABELS, buckets=BOUNDS, registry=theirs),
    )
    ours.register(counter)
    ours.register(histogram)
    counter.begin("m", "queue")
    own[0].labels("m", "queue")
    for labels, value in (
        (("m", "run"), 0.5),
        (("m", "run"), 0.25),
        (('a "name"\n', "run"), 17.0),
        (("m", "decode"), 0.0),
    ):
        counter.add(labels)
        histogram.observe(labels, value)
        own[0].labels(*labels).inc()
        own[1].labels(*labels).observe(value)
    assert callable(write)
    assert write(ours) == write(theirs)
