"""The gRPC port when it is full: whose headers, bodies and connections have to wait or give way."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlserve.server.body_memory import BodyMemory
from mlserve.server.listen.grpc.connection import GrpcConnection
from mlserve.server.listen.grpc.server import GrpcServer
from mlserve.server.listen.ports import GrpcPort
from mlserve.server.telemetry.metrics import Metrics
from mlserve.server.telemetry.request_log import RequestLog
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.settings import DEFAULT_SETTINGS
from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.serving_pb2 import GetModelStatusRequest
from tests.harness.raw_http2 import DATA, PING, Heard, RawHttp2, frame, message

STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
CHECK = "/grpc.health.v1.Health/Check"
ASK = message(GetModelStatusRequest(model_spec={"name": "m"}).SerializeToString())
SERVING = health_pb2.HealthCheckResponse.SERVING
IMAGE = np.array([b"x"], object), DType.BYTES
MB = 2**20
UNAVAILABLE, UNAUTHENTICATED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 14, 16, 8, 12


def slow(request_of: Any, seconds: float) -> Any:
    return request_of("slow", seconds=(np.array([seconds], np.float32), DType.FLOAT32))


def memory_of(server: Any) -> float:
    return psutil.Process(server.process.pid).memory_info().rss / MB


def health(channel: Any) -> Any:
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status


@pytest.mark.server
class TestHeadersDecide:
    """Each of these calls sends headers only, and has its answer before a byte of its message."""

    def test_without_a_token(self, model: Any, launch: Any, tmp_path: Any) -> None:
        model.put(1)
        (tmp_path / "token").write_text("secret")
        server = launch("--token-file", str(tmp_path / "token"))
        server.wait_listening()
        with RawHttp2(server.grpc) as client:
            for number, path in enumerate((PREDICT, STATUS, "/no/such")):
                client.call(2 * number + 1, path)
                heard = client.answer(2 * number + 1)
                assert (heard.status, heard.reset) == (UNAUTHENTICATED, 0)
                client.say(frame(DATA, 0, 2 * number + 1, bytes(16384)))  # it was on its way
            two = [("authorization", "Bearer secret"), ("authorization", "Bearer secret")]
            client.call(7, STATUS, two)
            assert client.answer(7).status == UNAUTHENTICATED
            client.call(9, STATUS, two[:1], data=ASK)
            assert client.answer(9).status in (0, UNAVAILABLE)

    def test_of_an_unknown_method(self, server: Any) -> None:
        with RawHttp2(server.grpc) as client:
            client.call(1, "/tensorflow.serving.PredictionService/NoSuchMethod")
            assert client.answer(1).status == UNIMPLEMENTED

    def test_while_the_server_stops(
        self, model: Any, start: Any, predict_on: Any, request_of: Any
    ) -> None:
        model.put(1)
        server = start("--drain-timeout", "60")
        running = predict_on(server, slow(request_of, 60), timeout=60)
        with RawHttp2(server.grpc) as client:
            client.call(1, CHECK, data=message(b""))
            assert client.answer(1).status == 0
            wait_until(lambda: "slow" in model.runs())
            server.process.terminate()
            wait_until(lambda: "stopping: 1 requests to finish" in server.log())
            client.call(3, PREDICT)
            heard = client.answer(3)
        assert (heard.status, heard.message) == (UNAVAILABLE, "the server is shutting down")
        model.release()
        assert running.result()

    def test_when_the_queue_is_full(
        self, model: Any, start: Any, predict_on: Any, request_of: Any
    ) -> None:
        model.put(1)
        server = start("--threads", "1", "--max-queue", "0")
        running = predict_on(server, slow(request_of, 60), timeout=60)
        wait_until(lambda: "slow" in model.runs())
        with RawHttp2(server.grpc) as client:
            client.call(1, PREDICT, [("grpc-timeout", "10S")])
            heard = client.answer(1)
        assert (heard.status, heard.reset) == (RESOURCE_EXHAUSTED, 0)
        assert int(heard.headers["grpc-retry-pushback-ms"]) > 0
        assert heard.headers["x-request-id"]
        model.release()
        assert running.result()

    def test_a_health_check_takes_a_few_bytes(self, server: Any) -> None:
        """The faults table's row H5: 12 messages of 60 MB before their last byte held 0.87 GB."""
        with RawHttp2(server.grpc) as client:
            for number in range(12):
                client.upload(2 * number + 1, CHECK, 60 * MB, lacking=1)
                heard = client.answer(2 * number + 1)
                assert (heard.status, heard.reset) == (RESOURCE_EXHAUSTED, 0)
            assert sum(more for stream, more in client.windows if stream) == 0
            client.call(101, CHECK, data=message(b""))
            assert client.answer(101).status == 0


@pytest.mark.server
class TestBodies:
    @pytest.fixture
    def server(self, model: Any, start: Any) -> Any:
        model.put(7)
        return start("--max-request-bytes", str(31 * MB), "--max-body-memory", str(100 * MB))

    def test_uploads_that_lack_a_byte_have_a_bound(
        self, server: Any, predict_on: Any, request_of: Any
    ) -> None:
        """The faults table's row G11: 20 of 30 MB held 573 MB."""
        before = memory_of(server)
        with ExitStack() as stack:
            for _ in range(20):
                client = stack.enter_context(RawHttp2(server.grpc))
                client.upload(1, PREDICT, 30 * MB, lacking=1)
            assert memory_of(server) - before < 160
            with RawHttp2(server.grpc) as other:  # health has room of its own
                other.call(1, CHECK, data=message(b""))
                assert other.answer(1).status == 0
        assert "Traceback" not in server.log()

    def test_a_stalled_upload_gives_way(
        self, server: Any, predict_on: Any, request_of: Any
    ) -> None:
        request = request_of(image=(np.array([bytes(30 * MB)], object), DType.BYTES))
        with ExitStack() as stack:
            stalled = [stack.enter_context(RawHttp2(server.grpc)) for _ in range(3)]
            for client in stalled:
                client.upload(1, PREDICT, 30 * MB, lacking=1)
            full = predict_on(server, request).exception()
            if full is not None:  # within the second in which none of them counts as stalled
                assert full.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "--max-body-memory" in full.details()
                assert dict(full.trailing_metadata())["grpc-retry-pushback-ms"]
            wait_until(lambda: predict_on(server, request).exception() is None)  # after a second
            heard = stalled[0].answer(1)
            assert (heard.status, "stalled" in heard.message) == (RESOURCE_EXHAUSTED, True)

    def test_refused_bodies_are_dropped(self, server: Any) -> None:
        """What is on its way when its call is refused fills nothing, and no window runs dry."""
        before = memory_of(server)
        with RawHttp2(server.grpc) as client:
            for number in range(1000):
                stream = 2 * number + 1
                client.call(stream, "/no/such")
                for _ in range(3):
                    client.say(frame(DATA, 0, stream, bytes(2**14)))
                client.say(frame(DATA, 1, stream, bytes(2**13)))
            assert client.answer(1999).status == UNIMPLEMENTED
            granted = sum(more for stream, more in client.windows if not stream)
            assert granted > 40 * MB
        assert memory_of(server) - before < 40


@pytest.mark.server
class TestConnections:
    def test_idle_ones_give_way_to_new_ones(
        self, model: Any, start: Any, predict_on: Any, request_of: Any
    ) -> None:
        """The faults table's row H6: as many as --max-connections kept all others out."""
        model.put(7)
        server = start("--max-connections", "4")
        with ExitStack() as stack:
            idle = [stack.enter_context(RawHttp2(server.grpc)) for _ in range(4)]
            for client in idle:
                client.call(1, STATUS, data=ASK)
                assert client.answer(1).status == 0
            assert predict_on(server, request_of(image=IMAGE), timeout=20).result()
            code, text = idle[0].end()
            assert (code, "(--max-connections)" in text) == (0, True)
            assert idle[0].goaways[-1][0] == 1, "the last call that was seen"
            idle[3].call(3, STATUS, data=ASK)
            assert idle[3].answer(3).status == 0

    def test_a_health_check_gets_in_when_all_are_at_work(
        self, model: Any, start: Any, request_of: Any
    ) -> None:
        model.put(7)
        server = start("--max-connections", "2", "--threads", "2")
        request = message(slow(request_of, 60).SerializeToString())
        with ExitStack() as stack:
            busy = [stack.enter_context(RawHttp2(server.grpc)) for _ in range(2)]
            for client in busy:
                client.call(1, PREDICT, data=request)
            wait_until(lambda: model.runs().count("slow") == 2)
            for _ in range(5):
                late = stack.enter_context(RawHttp2(server.grpc))
                late.call(1, CHECK, data=message(b""))
                assert late.answer(1).status == 0
            late.call(3, STATUS, data=ASK)
            refused = late.answer(3)
            assert refused.status == UNAVAILABLE
            assert "2 connections (--max-connections), and all are in use" in refused.message
            model.release()
            assert busy[0].answer(1).status == 0
            late.call(5, STATUS, data=ASK)
            assert late.answer(5).status == 0

    def test_watchers_of_the_health_give_way_too(self, model: Any, start: Any) -> None:
        model.put(7)
        server = start("--max-connections", "2")
        with ExitStack() as stack:
            watchers = []
            for _ in range(3):
                client = stack.enter_context(RawHttp2(server.grpc))
                watchers.append(client)
                client.call(1, "/grpc.health.v1.Health/Watch", data=message(b""))
                heard = client.streams.setdefault(1, Heard())
                client.listen(lambda heard=heard: bool(heard.data))
            gone = watchers[0].answer(1)
            assert (gone.status, "to make room" in gone.message) == (RESOURCE_EXHAUSTED, True)


@pytest.mark.server
class TestStop:
    def test_a_client_is_told_twice(self, model: Any, start: Any) -> None:
        """A call that it sends before it has heard the first word is answered."""
        model.put(7)
        server = start()
        with RawHttp2(server.grpc) as client:
            client.call(1, STATUS, data=ASK)
            assert client.answer(1).status == 0
            server.process.terminate()
            client.listen(lambda: bool(client.pings))
            assert client.goaways == [(2**31 - 1, 0, "the server is shutting down")]
            client.call(3, STATUS, data=ASK)
            assert client.answer(3).status in (0, UNAVAILABLE)
            client.say(frame(PING, 1, 0, client.pings[0][1]))
            client.end()
            assert client.goaways[-1][:2] == (3, 0)
        assert server.exit_code() == 0

    def test_a_call_that_is_on_its_way_ends(self, model: Any, start: Any, request_of: Any) -> None:
        """Its headers came before the signal, its message comes after."""
        model.put(7)
        server = start("--drain-timeout", "60")
        request = message(request_of(image=IMAGE).SerializeToString())
        with RawHttp2(server.grpc) as client:
            client.call(1, PREDICT)
            client.call(3, STATUS, data=ASK)
            assert client.answer(3).status == 0
            server.process.terminate()
            wait_until(lambda: "stopping: 1 requests to finish" in server.log())
            client.say(frame(DATA, 1, 1, request))
            assert client.answer(1).status == 0
        assert server.exit_code() == 0

    @pytest.mark.alone
    @pytest.mark.parametrize("watches", [False, True])
    def test_an_idle_stop_is_quick(
        self, model: Any, start: Any, channel_to: Any, watches: bool
    ) -> None:
        """The faults table's row G13: a client that watches the health held it up to the end."""
        model.put(7)
        server = start("--drain-timeout", "60")
        stub = health_pb2_grpc.HealthStub(channel_to(server))
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status == SERVING
        if watches:
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == SERVING
        began = time.monotonic()
        server.process.terminate()
        line = "stopping: 0 requests to finish"
        assert server.exit_code() == 0
        assert line in server.log()
        assert time.monotonic() - began < 10  # REST's quiet second is the longest part


class TestLife:
    """The port inside of the test's process."""

    @pytest.fixture
    def port(self) -> GrpcPort:
        settings = DEFAULT_SETTINGS
        telemetry = Telemetry(Metrics(), RequestLog(settings))
        return GrpcPort("127.0.0.1", 0, telemetry, BodyMemory(settings.body_memory), settings)

    def test_a_silent_client_is_asked_and_then_closed(self) -> None:
        made: list[GrpcConnection] = []

        async def check() -> None:
            shared = GrpcServer(DEFAULT_SETTINGS, BodyMemory(MB), None)

            def make() -> GrpcConnection:
                made.append(GrpcConnection(shared))
                return made[-1]

            loop = asyncio.get_running_loop()
            server = await loop.create_server(make, "127.0.0.1", 0)
            host, port = server.sockets[0].getsockname()
            client = await asyncio.to_thread(RawHttp2, f"{host}:{port}")
            await asyncio.to_thread(client.listen, lambda: client.settings_acks > 0)
            [connection] = made
            connection.look_after(60, 20)
            connection.look_after(0, 20)
            await asyncio.to_thread(client.listen, lambda: bool(client.pings))
            connection.look_after(0, 20)
            client.say(frame(PING, 0, 0, bytes(8)))
            await asyncio.to_thread(client.listen, lambda: len(client.pings) > 1)
            connection.look_after(0, 20)
            await asyncio.to_thread(client.listen, lambda: len(client.pings) > 2)
            connection.look_after(0, 0)
            await asyncio.to_thread(client.end)
            assert [flags for flags, _ in client.pings] == [0, 1, 0]
            client.socket.close()
            server.close()
            await server.wait_closed()

        asyncio.run(check())
