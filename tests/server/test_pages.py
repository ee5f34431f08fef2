"""The OpenAPI document, held against a real server by requests that are drawn from it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mlserve.server.openapi import DOCUMENT

pytestmark = pytest.mark.server

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OPERATIONS = [
    (method, path)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if method in ("get", "post")
]
WHERE = {"model": "m", "version": 7}
few = settings(
    max_examples=5,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def check(server: Any, case: Any) -> int:
    """The status of the answer to that request, which is as the document says."""
    response = case.call(base_url=f"http://{server.rest}", timeout=20)
    case.validate_response(response, checks=CHECKS)
    status: int = response.status_code
    assert status != 500, response.text
    return status


def check_some(server: Any, cases: Any) -> None:
    @seed(7)
    @few
    @given(cases)
    def ask(case: Any) -> None:
        check(server, case)

    ask()


def operation(method: str, path: str) -> Any:
    return schemathesis.openapi.from_dict(DOCUMENT)[path][method]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_requests_as_the_document_says(server: Any, method: str, path: str) -> None:
    where = {name: value for name, value in WHERE.items() if f"{{{name}}}" in path}
    patient: Any = {"X-Request-Timeout-Ms": "20000"} if method == "post" else None
    found = operation(method, path)
    check_some(server, found.as_strategy(path_parameters=where or None, headers=patient))


@pytest.mark.parametrize(("method", "path"), [op for op in OPERATIONS if op[0] == "post"])
def test_requests_that_are_not_as_the_document_says(server: Any, method: str, path: str) -> None:
    check_some(server, operation(method, path).as_strategy(GenerationMode.NEGATIVE))


@pytest.mark.parametrize(("method", "path"), [op for op in OPERATIONS if "{" in op[1]])
def test_any_name_of_a_model(server: Any, method: str, path: str) -> None:
    check_some(server, operation(method, path).as_strategy())


IMAGE = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["x"]}
CLASSES = [{"name": "output_0", "parameters": {"classification": 2}}]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/models/{model}/infer", {"inputs": [IMAGE], "id": "42", "outputs": CLASSES}, 200),
        ("/v2/models/{model}/infer", {"inputs": [{**IMAGE, "data": ["bad"]}]}, 415),
        ("/v2/models/{model}/infer", {"inputs": []}, 400),
        ("/v1/models/{model}:predict", {"inputs": ["x"]}, 200),
        ("/v1/models/{model}:predict", {"instances": ["x"], "signature_name": "top_k"}, 200),
        ("/v1/models/{model}:predict", {"inputs": ["x"], "signature_name": "x"}, 400),
    ],
)
def test_answers_as_the_document_says(server: Any, path: str, body: Any, status: int) -> None:
    case = operation("post", path).Case(
        path_parameters=WHERE, body=body, media_type="application/json"
    )
    assert check(server, case) == status


def test_the_server_has_the_document(server: Any) -> None:
    response = httpx.get(f"http://{server.rest}/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == DOCUMENT
    assert httpx.post(f"http://{server.rest}/openapi.json").status_code == 405


def test_every_path_is_in_the_document(server: Any) -> None:
    for method, path in OPERATIONS:
        url = path.replace("{model}", "m").replace("{version}", "7")
        status = httpx.request(method, f"http://{server.rest}{url}").status_code
        has_to_have_a_body = path.endswith(("/infer", ":predict", ":classify", ":regress"))
        assert status == (400 if has_to_have_a_body else 200), path
