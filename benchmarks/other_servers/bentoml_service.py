"""`work` as a BentoML service. TRAFFIC holds its limits as JSON, `{}` for none."""

from __future__ import annotations

import json
import os

import bentoml
from work import work


@bentoml.service(traffic=json.loads(os.environ["TRAFFIC"]))
class Work:
    """One worker with one thread: the defaults."""

    @bentoml.api
    def predict(self, x: float) -> str:
        """Answer after the work."""
        return work()
