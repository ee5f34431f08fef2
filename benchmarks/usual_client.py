"""The client shown in tutorials: argparse, TensorFlow Serving's own stubs, `make_tensor_proto`.

It sends the same request to mlserve's server, so that `cold_start.py` can compare the two. Prints
the label, and the seconds of the call itself.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def main() -> None:
    """Send one request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("image", type=Path)
    parser.add_argument("--endpoint", default="127.0.0.1:8500")
    parser.add_argument("--model", default="inception_v3")
    options = parser.parse_args()

    request = predict_pb2.PredictRequest()
    request.model_spec.name = options.model
    request.model_spec.signature_name = "serving_default"
    image = tf.make_tensor_proto([options.image.read_bytes()], shape=[1])
    request.inputs["image"].CopyFrom(image)
    channel = grpc.insecure_channel(options.endpoint)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    started = time.perf_counter()
    response = stub.Predict(request, timeout=30)
    print(response.outputs["output_0"].string_val[0].decode())
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
