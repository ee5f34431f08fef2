"""The page that Prometheus scrapes, on the REST port."""

from __future__ import annotations

from starlette.requests import Request  # noqa: TID253
from starlette.responses import Response  # noqa: TID253

from mlserve.server.rest import check_method
from mlserve.server.sight.metrics import Metrics
from mlserve.server.sight.requests import METRICS_PATHS


class MetricsPage:
    """The page with the metrics, in the format that the Accept header asks for."""

    def __init__(self, metrics: Metrics, also_at: str | None = None) -> None:
        self._metrics = metrics
        self._paths = (*METRICS_PATHS, also_at)

    async def respond(self, request: Request) -> Response | None:
        """The page; None for any other path."""
        if request.url.path not in self._paths:
            return None
        check_method(request, "GET")
        body, media_type = self._metrics.page(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type})
