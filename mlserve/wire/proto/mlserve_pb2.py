"""The messages of mlserve.proto; typed by the generated `mlserve_pb2.pyi`."""

from mlserve.wire.proto._pool import message

DecisionsRequest = message("mlserve.DecisionsRequest")
DecisionsResponse = message("mlserve.DecisionsResponse")
ShadowRequest = message("mlserve.ShadowRequest")
ShadowResponse = message("mlserve.ShadowResponse")
