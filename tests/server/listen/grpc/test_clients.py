"""Whole gRPC clients, the health and the reflection service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from mlserve.wire.proto.serving_pb2 import GetModelStatusRequest

pytestmark = pytest.mark.server

STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
ASK = GetModelStatusRequest(model_spec={"name": "m"}).SerializeToString()
INVALID_ARGUMENT = 3


class TestClients:
    """Whole clients; Triton's and TensorFlow Serving's own have their files."""

    def test_grpc_aio(self, server: Any) -> None:
        async def ask() -> list[bytes]:
            async with grpc.aio.insecure_channel(server.grpc) as channel:
                method = channel.unary_unary(STATUS)
                return await asyncio.gather(*(method(ASK, timeout=20) for _ in range(200)))

        assert len(set(asyncio.run(ask()))) == 1

    def test_many_at_once_on_one_channel(self, server: Any, channel_to: Any) -> None:
        method = channel_to(server).unary_unary(STATUS)
        calls = [method.future(ASK, timeout=60) for _ in range(3000)]
        assert all(call.result() for call in calls)

    def test_watching_the_health(self, server: Any, channel_to: Any) -> None:
        stub = health_pb2_grpc.HealthStub(channel_to(server))
        known = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(known).status == health_pb2.HealthCheckResponse.SERVING
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="x"), timeout=20)
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        known.cancel()
        unknown.cancel()

    @pytest.mark.parametrize("version", ["v1", "v1alpha"])
    def test_reflection(self, server: Any, channel_to: Any, version: str) -> None:
        ask = channel_to(server).stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        service = f"grpc.reflection.{version}.ServerReflection"
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=service),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Name"),
            reflection_pb2.ServerReflectionRequest(file_by_filename="no/such.proto"),
            reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="x"),
            reflection_pb2.ServerReflectionRequest(
                all_extension_numbers_of_type="tensorflow.serving.PredictRequest"
            ),
            reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="tensorflow.serving.PredictRequest"
            ),
            reflection_pb2.ServerReflectionRequest(),
        ]
        answers = list(ask(iter(asked), timeout=20))
        assert [answer.original_request for answer in answers] == asked
        assert service in {item.name for item in answers[0].list_services_response.service}
        pool = DescriptorPool()
        files = answers[1].file_descriptor_response.file_descriptor_proto
        for file in reversed(files):
            pool.AddSerializedFile(file)
        assert pool.FindServiceByName(service).methods_by_name
        codes = [answer.error_response.error_code for answer in answers]
        assert codes == [0, 0, 5, 5, 5, 0, 0, INVALID_ARGUMENT]
        assert len(answers[6].file_descriptor_response.file_descriptor_proto) > 1


def test_the_server_does_without_grpcs_library() -> None:
    """Its threads, its memory and 0.1 s of its start are for clients."""
    code = "import sys, mlserve.server.app; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
