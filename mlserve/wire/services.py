"""The gRPC services that client and server know, by their full names, each defined once."""

from __future__ import annotations

PREDICTION = "tensorflow.serving.PredictionService"
MODEL = "tensorflow.serving.ModelService"
INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1.ServerReflection"
REFLECTION_ALPHA = "grpc.reflection.v1alpha.ServerReflection"
SERVER = "mlserve.Server"
"""What only mlserve's own servers have."""


def method_path(service: str, method: str) -> str:
    """Return the path of a method, which is its HTTP/2 `:path`."""
    return f"/{service}/{method}"
