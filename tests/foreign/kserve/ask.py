"""Asks a server with KServe's own clients: `ask.py REST_PORT GRPC_PORT MODEL`; prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    InferResponse,
    RESTConfig,
)


def _request(model: str) -> InferRequest:
    image = InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([b"\xff\xd8\xff a photo"], object), binary_data=True)
    return InferRequest(model, [image])


def _labels(response: InferResponse) -> list[str]:
    labels = response.outputs[0].as_numpy().ravel()
    return [each.decode() if isinstance(each, bytes) else each for each in labels]


async def over_rest(port: int, model: str) -> dict[str, Any]:
    """What the client of REST gets."""
    base = f"http://127.0.0.1:{port}"
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=20))
    response = await client.infer(base, _request(model), model_name=model)
    return {
        "live": await client.is_server_live(base),
        "ready": await client.is_server_ready(base),
        "model_ready": await client.is_model_ready(base, model),
        "model": response.model_name,
        "labels": _labels(response),
    }


async def over_grpc(port: int, model: str) -> dict[str, Any]:
    """What the client of gRPC gets."""
    client = InferenceGRPCClient(f"127.0.0.1:{port}", timeout=20)
    response = await client.infer(_request(model))
    found = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready(model),
        "model": response.model_name,
        "labels": _labels(response),
    }
    await client.close()
    return found


async def main(rest_port: str, grpc_port: str, model: str) -> None:
    answers = {
        "rest": await over_rest(int(rest_port), model),
        "grpc": await over_grpc(int(grpc_port), model),
    }
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
