"""What shadows and splits have shown, on both ports: for `mlserve status`.

It belongs to no protocol, and needs the token like everything that tells about a server.
"""

from __future__ import annotations

import json

from mlserve.server.codec.proto_reader import read_message
from mlserve.server.engine.engine import Engine
from mlserve.server.listen.grpc.call import Context
from mlserve.server.listen.grpc.service import BytesMethod, deadline_of
from mlserve.server.listen.http import check_method, json_response
from mlserve.server.listen.routes import Operation
from mlserve.server.message import Request, Response
from mlserve.server.request import Purpose
from mlserve.server.rollout.rollouts import Rollouts
from mlserve.wire import paths
from mlserve.wire.proto.mlserve_pb2 import ShadowRequest, ShadowResponse


class ShadowPage:
    """The page of the REST port: `GET /mlserve/shadow`."""

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts

    def match(self, path: str) -> Operation | None:
        if path != paths.SHADOW:
            return None
        return Operation("", Purpose.METADATA, self._respond)

    async def _respond(self, request: Request) -> Response:
        check_method(request, "GET")
        return json_response(_written(self._rollouts))


class ShadowMethod:
    """The same on the gRPC port: the method `Shadow` of mlserve's own service."""

    def __init__(self, engine: Engine, rollouts: Rollouts) -> None:
        self._engine = engine
        self._rollouts = rollouts

    def methods(self) -> dict[str, BytesMethod]:
        """Return the method by its name."""
        return {"Shadow": self.shadow}

    async def shadow(self, data: bytes, context: Context) -> bytes:
        """Shadow: how all shadows and splits stand."""
        deadline = deadline_of(context, self._engine.default_timeout)
        await read_message(ShadowRequest, data, deadline)
        return ShadowResponse(json=_written(self._rollouts)).SerializeToString()


def _written(rollouts: Rollouts) -> bytes:
    return json.dumps(rollouts.report().to_json()).encode()
