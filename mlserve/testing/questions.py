"""TensorFlow Serving's messages for images, as sent by the suite."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import grpc

from mlserve.tensors import DType
from mlserve.wire.proto.serving_pb2 import PredictRequest, PredictResponse
from mlserve.wire.services import PREDICTION, method_path

if TYPE_CHECKING:
    Predict = grpc.UnaryUnaryMultiCallable[PredictRequest, PredictResponse]


def request_of(model: str, *images: bytes, signature: str = "serving_default") -> PredictRequest:
    """Return the request for a batch of these images."""
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    tensor = request.inputs["image"]
    tensor.dtype = DType.BYTES.tf_number  # type: ignore[assignment]
    tensor.tensor_shape.dim.add(size=len(images))
    tensor.string_val.extend(images)
    return request


def predict_method(channel: grpc.Channel) -> Predict:
    """Return PredictionService.Predict on that channel."""
    return channel.unary_unary(
        method_path(PREDICTION, "Predict"),
        request_serializer=PredictRequest.SerializeToString,
        response_deserializer=PredictResponse.FromString,
    )


def as_base64(image: bytes) -> dict[str, Any]:
    """Return the image as REST carries bytes."""
    return {"b64": base64.b64encode(image).decode()}
