"""The messages of torchserve.proto; typed by the generated `torchserve_pb2.pyi`."""

from mlserve.wire.proto._pool import message

_PACKAGE = "org.pytorch.serve.grpc.inference"

PredictionsRequest = message(f"{_PACKAGE}.PredictionsRequest")
PredictionResponse = message(f"{_PACKAGE}.PredictionResponse")
TorchServeHealthResponse = message(f"{_PACKAGE}.TorchServeHealthResponse")
