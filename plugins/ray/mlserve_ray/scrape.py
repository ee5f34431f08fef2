"""What a replica's server says of itself over REST: its versions and its load."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from mlserve.wire.replicas import ReplicaVersion
from mlserve_ray.reports import Load

_SECONDS = 5.0
_OF_THE_MODEL = ("inference_failed", "mlserve_error")
"""Codes of requests that the model, and not the caller or the load, made fail."""
_GAUGES = {
    "mlserve_requests_running": "running",
    "mlserve_requests_waiting": "waiting",
    "mlserve_predicted_wait_seconds": "predicted",
}
_NOT_FOR_WANT_OF_ROOM = {"too_slow", "draining", "gone", "too_large", "unauthenticated"}
"""Reasons for refusals that more replicas would not have prevented."""


class NoAnswer(Exception):
    """The server does not answer, or not with 200."""


@dataclass(slots=True)
class Asked:
    """A server at `host:port`, asked with a token if it has one. Keeps what rates are made of."""

    host: str
    port: int
    model: str
    token: bytes | None
    slots: int
    _at: float = field(default_factory=time.monotonic)
    _before: Mapping[str, float] = field(default_factory=dict)

    def versions(self) -> tuple[ReplicaVersion, ...]:
        """Return the states of the model's versions. Raises NoAnswer."""
        body = self.get(f"/v1/models/{quote(self.model, safe='')}")
        rows = json.loads(body).get("model_version_status", [])
        return tuple(
            ReplicaVersion(
                int(row["version"]), row["state"], row.get("status", {}).get("error_message", "")
            )
            for row in rows
        )

    def load(self) -> Load:
        """Return what it has to do, with rates since the last call. Raises NoAnswer."""
        totals: dict[str, float] = {}
        answered: dict[int, tuple[int, int]] = {}
        for sample in _samples(self.get("/metrics").decode()):
            _add(totals, answered, sample)
        now = time.monotonic()
        seconds = max(now - self._at, 1e-3)
        done, ran = (totals[name] - self._before.get(name, 0.0) for name in ("done", "ran"))
        self._at, self._before = now, totals
        waiting = totals["waiting"]
        rate = done / seconds
        return Load(
            in_flight=int(totals["running"] + waiting),
            requests=int(totals["requests"]),
            refused=int(totals["refused"]),
            wait=totals.get("predicted", waiting / rate if rate > 0 else 0.0),
            busy=min(1.0, max(0.0, ran) / seconds / self.slots),
            answered=answered,
        )

    def get(self, path: str) -> bytes:
        """Return the body at that path. Raises NoAnswer."""
        headers = {}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token.decode()}"
        try:
            with closing(HTTPConnection(self.host, self.port, timeout=_SECONDS)) as connection:
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                body = answer.read()
        except (OSError, HTTPException) as error:
            raise NoAnswer(f"{path}: {error}") from error
        if answer.status != HTTPStatus.OK:
            raise NoAnswer(f"{path}: HTTP {answer.status}")
        return body


def _samples(page: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(page):
        yield from family.samples


def _add(totals: dict[str, float], answered: dict[int, tuple[int, int]], sample: Sample) -> None:
    """Add a sample of the page to what it counts for."""
    for name in ("done", "ran", "waiting", "running", "requests", "refused"):
        totals.setdefault(name, 0.0)
    labels = sample.labels
    if sample.name in _GAUGES:
        totals[_GAUGES[sample.name]] = sample.value
    elif sample.name == "mlserve_refused_total":
        if labels["reason"] in _NOT_FOR_WANT_OF_ROOM:
            return
        totals["refused"] += sample.value
    elif sample.name == "mlserve_work_total":
        totals["done"] += sample.value
    elif sample.name == "mlserve_stage_duration_seconds_sum" and labels["stage"] == "run":
        totals["ran"] += sample.value
    elif sample.name == "mlserve_requests_total" and labels["kind"] == "predict":
        totals["requests"] += sample.value
        if labels["version"] and labels["code"] in ("ok", *_OF_THE_MODEL):
            good, failed = answered.get(int(labels["version"]), (0, 0))
            is_good = labels["code"] == "ok"
            count = int(sample.value)
            answered[int(labels["version"])] = (
                (good + count, failed) if is_good else (good, failed + count)
            )
