"""Clients of `gpu.py` in a process of their own, which imports no framework.

    python benchmarks/gpu_load.py ADDRESS MODEL PHOTO SECONDS CLIENTS

Each client asks for the photo over gRPC, one request after another. Prints the times of the
answers, in seconds, and the errors, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from served_model import predict_request

from mlserve.wire.proto.serving_pb2 import PredictRequest, PredictResponse

METHOD = "/tensorflow.serving.PredictionService/Predict"
TIMEOUT = 10.0


def load(address: str, model: str, photo: bytes, seconds: float, clients: int) -> dict[str, Any]:
    """Ask from several threads, each on a connection of its own."""
    times: list[float] = []
    errors: list[str] = []
    start = threading.Barrier(clients)

    def client(number: int) -> None:
        # Bytes after the end marker change nothing but that the photos are not the same.
        request = predict_request(model, "top_k", photo + bytes([number]))
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options=options) as channel:
            call: Any = channel.unary_unary(
                METHOD,
                request_serializer=PredictRequest.SerializeToString,
                response_deserializer=PredictResponse.FromString,
            )
            call(request, timeout=6 * TIMEOUT)
            start.wait()
            until = time.monotonic() + seconds
            while (began := time.monotonic()) < until:
                try:
                    call(request, timeout=TIMEOUT)
                    times.append(time.monotonic() - began)
                except grpc.RpcError as error:
                    errors.append(f"{error.code().name}: {error.details()}")

    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(client, range(clients)))
    return {"times": times, "errors": errors}


def main() -> None:
    """Print what the clients got."""
    address, model, photo, seconds, clients = sys.argv[1:]
    found = load(address, model, Path(photo).read_bytes(), float(seconds), int(clients))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
