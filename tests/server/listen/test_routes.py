"""What a request is counted as: each protocol says so where it matches the path or the method."""

from __future__ import annotations

from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest

from mlserve.server.listen.access import GrpcGate, KnownTokens
from mlserve.server.listen.grpc.call import Context
from mlserve.server.listen.grpc.headers import GrpcStatus, Head
from mlserve.server.listen.grpc.service import unary_methods
from mlserve.server.listen.routes import RestApp
from mlserve.server.oip.grpc import OipGrpcService
from mlserve.server.oip.rest import OipRestExtensions, OipRestService
from mlserve.server.pages import MetricsPage, OpenApiPage
from mlserve.server.request import LONGEST_PATH, Purpose, Route
from mlserve.server.telemetry.metrics import Metrics
from mlserve.server.telemetry.request_log import RequestLog
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.server.tfs.grpc import TfsGrpcService
from mlserve.server.tfs.rest import TfsRestService
from mlserve.settings import DEFAULT_SETTINGS
from mlserve.tokens import Token

ENGINE: Any = SimpleNamespace(settings=DEFAULT_SETTINGS)
NOTHING: Any = None
REST = RestApp(
    NOTHING,
    (
        TfsRestService(ENGINE, NOTHING, NOTHING),
        OipRestExtensions(NOTHING, NOTHING),
        OipRestService(ENGINE, NOTHING, NOTHING, {}),
        OpenApiPage(),
        MetricsPage(NOTHING),
    ),
    NOTHING,
    NOTHING,
)
METHODS = unary_methods(
    (
        *TfsGrpcService(ENGINE, NOTHING, host="", reload=NOTHING).services(),
        *OipGrpcService(ENGINE, NOTHING, NOTHING, {}).services(),
    ),
    *(NOTHING, NOTHING, NOTHING),
)


@pytest.mark.parametrize(
    ("method", "path", "api", "purpose"),
    [
        ("POST", "/v1/models/m:predict", "tfs", "predict"),
        ("POST", "/V1/models/m/versions/7:Predict", "tfs", "predict"),
        ("POST", "/v1/models/m:classify", "tfs", "predict"),
        ("POST", "/v2/models/m/infer", "oip", "predict"),
        ("GET", "/v2/models/m/versions/7/infer", "oip", "predict"),
        ("GET", "/v1/models/m", "tfs", "probe"),
        ("GET", "/v1/models/m/versions/7", "tfs", "probe"),
        ("POST", "/v1/models/m", "tfs", "other"),
        ("GET", "/v1/models/m/metadata", "tfs", "metadata"),
        ("HEAD", "/v2/health/ready", "oip", "probe"),
        ("GET", "/v2/models/m/ready", "oip", "probe"),
        ("GET", "/v2", "oip", "metadata"),
        ("GET", "/v2/models/m", "oip", "metadata"),
        ("GET", "/v2/models/m/config", "oip", "metadata"),
        ("GET", "/v2/models/config", "oip", "metadata"),
        ("GET", "/v2/models/stats", "oip", "metadata"),
        ("POST", "/v2/repository/index", "oip", "other"),
        ("GET", "/metrics", "", "probe"),
        ("POST", "/metrics", "", "other"),
        ("GET", "/openapi.json", "", "metadata"),
        ("GET", "/wp-login.php", "", "other"),
    ],
)
def test_an_http_request(method: str, path: str, api: str, purpose: str) -> None:
    route = Route("rest", api, Purpose(purpose), f"{method} {path}")
    assert REST.operation(path).route(method, path) == route


def test_a_long_path_is_cut() -> None:
    path = "/" + "x" * 1000
    assert REST.operation(path).route("GET", path).path == f"GET {path[:LONGEST_PATH]}"


@pytest.mark.parametrize(
    ("service", "method", "api", "purpose"),
    [
        ("tensorflow.serving.PredictionService", "Predict", "tfs", "predict"),
        ("tensorflow.serving.PredictionService", "MultiInference", "tfs", "predict"),
        ("tensorflow.serving.PredictionService", "GetModelMetadata", "tfs", "metadata"),
        ("tensorflow.serving.ModelService", "GetModelStatus", "tfs", "probe"),
        ("inference.GRPCInferenceService", "ModelInfer", "oip", "predict"),
        ("inference.GRPCInferenceService", "ServerReady", "oip", "probe"),
        ("inference.GRPCInferenceService", "ModelMetadata", "oip", "metadata"),
    ],
)
def test_a_call(service: str, method: str, api: str, purpose: str) -> None:
    path = f"/{service}/{method}"
    assert METHODS[path].route == Route("grpc", api, Purpose(purpose), path)


@pytest.mark.parametrize("method", ["Predict", "x" * 1000])
def test_a_call_that_is_no_method_of_ours(method: str) -> None:
    """Without a token it is refused before anybody knows that there is no such method."""
    ended = []
    telemetry = Telemetry(Metrics(), RequestLog(DEFAULT_SETTINGS))
    telemetry.end = ended.append  # type: ignore[method-assign]
    path = f"/no.such.Service/{method}"
    with pytest.raises(GrpcStatus, match="requires a token"):
        # In a context of its own: what is begun here is no request of the tests that follow.
        copy_context().run(
            GrpcGate(KnownTokens([Token("", b"secret")]), telemetry).check,
            Context(Head(path, None, b"", ())),
            None,
        )
    [record] = ended
    assert record.route == Route("grpc", "", Purpose.OTHER, path[:LONGEST_PATH])
