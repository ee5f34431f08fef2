"""Pages of the REST port outside the protocols: `/metrics` and `/openapi.json`."""

from __future__ import annotations

import json
from urllib.parse import quote

from mlserve.server.listen.http import check_method, json_response
from mlserve.server.listen.routes import Operation
from mlserve.server.message import Request, Response
from mlserve.server.openapi import DOCUMENT, DOCUMENT_PATH, METRICS_PATHS, PAGES
from mlserve.server.request import Purpose
from mlserve.server.telemetry.metrics import Metrics


class OpenApiPage:
    """The page with the OpenAPI document, whose paths are below the place of a mounted server.

    Without the pages for people it does not list them.
    """

    def __init__(self, *, has_page: bool = True) -> None:
        paths = DOCUMENT["paths"]
        kept = {path: item for path, item in paths.items() if has_page or path not in PAGES}
        self._document = DOCUMENT | {"paths": kept}

    def match(self, path: str) -> Operation | None:
        if path != DOCUMENT_PATH:
            return None
        return Operation("", Purpose.METADATA, self._respond)

    async def _respond(self, request: Request) -> Response:
        check_method(request, "GET")
        root = request.root.rstrip("/")
        servers = {"servers": [{"url": quote(root)}]} if root else {}
        return json_response(json.dumps(self._document | servers).encode())


class MetricsPage:
    """The page with the metrics, in the format that the Accept header asks for."""

    def __init__(self, metrics: Metrics, also_at: str | None = None) -> None:
        self._metrics = metrics
        self._paths = (*METRICS_PATHS, also_at)

    def match(self, path: str) -> Operation | None:
        if path not in self._paths:
            return None
        return Operation("", Purpose.PROBE, self._respond)

    async def _respond(self, request: Request) -> Response:
        check_method(request, "GET")
        body, media_type = self._metrics.page(request.headers.get("accept"))
        return Response(body, media_type=media_type)
