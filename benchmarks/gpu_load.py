"""Clients of `gpu.py` in a process of their own, which imports no framework.

    python benchmarks/gpu_load.py ADDRESS MODEL PHOTO SECONDS CLIENTS

Each client asks for the photo over gRPC, one request after another. Prints the times of the
answers, in seconds, and the errors, as JSON.
"""

from __future__ import annotations

import argparse
import json
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


def predict_method(channel: grpc.Channel) -> Any:
    """Return `Predict` as a function of a request and a timeout."""
    return channel.unary_unary(
        METHOD,
        request_serializer=PredictRequest.SerializeToString,
        response_deserializer=PredictResponse.FromString,
    )


def numbered(photo: bytes, number: int) -> bytes:
    """Return the photo with a comment: a server reads a photo that repeats only once."""
    head = 20  # the start, and a JFIF segment without a thumbnail
    return photo[:head] + b"\xff\xfe\0\3" + bytes([number]) + photo[head:]


def load(address: str, model: str, photo: bytes, seconds: float, clients: int) -> dict[str, Any]:
    """Ask from several threads, each on a connection of its own."""
    times: list[float] = []
    errors: list[str] = []
    start = threading.Barrier(clients)

    def client(number: int) -> None:
        request = predict_request(model, "top_k", numbered(photo, number))
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options=options) as channel:
            call = predict_method(channel)
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="host:port of the gRPC port")
    parser.add_argument("model")
    parser.add_argument("photo", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("clients", type=int)
    asked = parser.parse_args()
    photo = asked.photo.read_bytes()
    print(json.dumps(load(asked.address, asked.model, photo, asked.seconds, asked.clients)))


if __name__ == "__main__":
    main()
