"""Answers of a server, as the client gives them."""

from __future__ import annotations

from typing import Any

from mlserve.client import Prediction
from mlserve.client.answers import Score, Timings

_TIMES = Timings(0, 0, 0, None, None, None, None, 0, 0, 0)


def answer(*scores: tuple[str, float], label: str = "ok", **more: Any) -> Prediction:
    """Return an answer with this label, and these scores."""
    return Prediction(
        label=label,
        scores=tuple(Score(name, score, None) for name, score in scores),
        model="m",
        version=1,
        endpoint="localhost:1",
        protocol="grpc",
        api="tfs",
        timings=_TIMES,
        has_random_weights=False,
        request_id="r",
        trace_id="t",
        **more,
    )
