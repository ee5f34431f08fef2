"""The REST paths of Triton's extensions: configuration, statistics, model repository."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request  # noqa: TID253
from starlette.responses import Response  # noqa: TID253

from mlserve.errors import InvalidInput
from mlserve.server.oip.extensions import OipExtensions
from mlserve.server.oip.grpc_extensions import PATIENCE, require_no_override, require_unnamed
from mlserve.server.oip.metadata import version_of
from mlserve.server.port.body_memory import BodyMemory
from mlserve.server.rest import check_method, deadline_of, json_response, received
from mlserve.server.rest_body import Content, content_of, text_of
from mlserve.server.tfs import json_tensor

_ABOUT = re.compile(
    r"/v2/models(?:/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?)?/(?P<what>config|stats)/?"
)
_REPOSITORY = re.compile(
    r"/v2/repository(?:/(?P<repository>[^/]+))??"
    r"/(?:index|models/(?P<model>[^/]+)/(?P<verb>load|unload))/?"
)
_MOST_BYTES = 64 * 2**10
"""The largest body of a request about the repository; it holds a few words."""


class OipRestExtensions:
    """Stands before `OipRest`, whose paths for models its own look like."""

    def __init__(self, extensions: OipExtensions, memory: BodyMemory) -> None:
        self._extensions = extensions
        self._memory = memory

    async def respond(self, request: Request) -> Response | None:
        """The response to a request for one of the extensions; None for any other path."""
        path = request.scope["raw_path"].decode("ascii", "replace")
        if match := _ABOUT.fullmatch(path):
            return self._about(request, match)
        match = _REPOSITORY.fullmatch(path)
        return None if match is None else await self._repository(request, match)

    def _about(self, request: Request, match: re.Match[str]) -> Response | None:
        is_config = match["what"] == "config"
        if is_config and match["model"] is None:
            return None  # the metadata of a model that is called so
        check_method(request, "GET")
        model = unquote(match["model"] or "")
        version = version_of(unquote(match["version"] or ""), model)
        if is_config:
            return _json(self._extensions.config(model, version))
        return _json({"model_stats": self._extensions.statistics(model, version)})

    async def _repository(self, request: Request, match: re.Match[str]) -> Response:
        check_method(request, "POST")
        if match["verb"]:
            self._extensions.require_control(is_from_browser="origin" in request.headers)
        require_unnamed(unquote(match["repository"] or ""))
        deadline = deadline_of(request, PATIENCE)
        async with received(request, deadline, _MOST_BYTES, self._memory) as body:
            asked = _object(content_of(body.content, request.headers, _MOST_BYTES))
        if not match["verb"]:
            return _json(self._extensions.index(only_ready=_is_true(asked, "ready")))
        parameters = asked.get("parameters", {})
        if not isinstance(parameters, dict):
            raise InvalidInput("'parameters' must be an object")
        require_no_override(list(parameters))
        change = self._extensions.load if match["verb"] == "load" else self._extensions.unload
        await change(unquote(match["model"]), deadline)
        return Response()


def _object(body: Content) -> dict[str, Any]:
    """The JSON object of a body; an empty body is an empty one. Raises InvalidInput."""
    text = text_of(body)
    return json_tensor.parse_body(text, ignores_rest=False) if text.strip() else {}


def _is_true(asked: dict[str, Any], name: str) -> bool:
    value = asked.get(name, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name!r} must be a boolean")
    return value


def _json(data: Any) -> Response:
    return json_response(json.dumps(data, ensure_ascii=False).encode())
