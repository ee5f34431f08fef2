"""Names of the wire stand once: no other module spells a header, a field or a service."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

import mlserve
from mlserve.tensors import DType
from mlserve.wire import headers, services, tensors
from mlserve.wire.headers import (
    over_http,
    own_header,
    read_server_timing,
    read_traceparent,
    write_server_timing,
    write_traceparent,
)
from mlserve.wire.proto.framework_pb2 import TensorProto
from mlserve.wire.proto.inference_pb2 import InferTensorContents, ModelInferRequest
from mlserve.wire.proto.mlserve_pb2 import DecisionsRequest
from mlserve.wire.proto.serving_pb2 import PredictRequest

CORE = Path(mlserve.__file__).parent
KEYS = {value for name, value in vars(headers).items() if name.isupper() and name[0] != "_"}
NAMES = {name for name in KEYS if isinstance(name, str)}
FIELDS = {*tensors.TENSOR_PROTO_FIELDS.values(), *tensors.OIP_FIELDS.values()}
SERVICES = {value for name, value in vars(services).items() if name.isupper()}
NARROW = {"int_contents", "uint_contents"}
"""Fields that the server tells apart from the others, by name."""
PUBLIC_ARGUMENT = "traceparent"
"""The only header that is also the name of an argument, so of one of its keys."""


def sources() -> Iterator[Path]:
    """The modules of core but those that define the names, and the tests that backends run."""
    for path in CORE.rglob("*.py"):
        if path.relative_to(CORE).parts[0] not in ("wire", "testing"):
            yield path


@cache
def strings(path: Path) -> list[str]:
    """The string constants of a module, without its docstrings."""
    return list(_strings(path))


def _strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Constant) and not isinstance(node, ast.Expr):
                if isinstance(child.value, str):
                    yield child.value
                elif isinstance(child.value, bytes):
                    yield child.value.decode("latin-1")


def test_the_names_are_found() -> None:
    assert len(NAMES) > 15
    assert {"server-timing", "mlserve-limits", "x-request-id"} <= NAMES
    assert len(list(sources())) > 100


def test_no_other_module_spells_a_header_or_a_field() -> None:
    own = {over_http(name) for name in NAMES if name.startswith("mlserve-")}
    known = {*NAMES, *own, *FIELDS} - {PUBLIC_ARGUMENT} - NARROW
    spelt = {
        f"{path.relative_to(CORE)}: {text}"
        for path in sources()
        for text in strings(path)
        if text.lower().partition(":")[0] in known
    }

    assert not spelt


def test_no_other_module_spells_a_service() -> None:
    spelt = {
        f"{path.relative_to(CORE)}: {text}"
        for path in CORE.rglob("*.py")
        if path.parent != Path(services.__file__).parent and "proto" not in path.parts
        for text in strings(path)
        if any(service in text for service in SERVICES)
    }

    assert not spelt


def test_services_are_those_of_the_messages() -> None:
    listed = {
        service.full_name
        for message in (
            ModelInferRequest,
            PredictRequest,
            DecisionsRequest,
            HealthCheckRequest,
            ServerReflectionRequest,
        )
        for service in message.DESCRIPTOR.file.services_by_name.values()
    }

    assert {*listed, services.REFLECTION} == SERVICES  # whose messages are those of v1alpha


def test_every_field_is_one_of_its_message() -> None:
    assert set(tensors.TENSOR_PROTO_FIELDS.values()) <= set(TensorProto.DESCRIPTOR.fields_by_name)
    assert set(tensors.OIP_FIELDS.values()) == set(InferTensorContents.DESCRIPTOR.fields_by_name)
    assert set(tensors.TENSOR_PROTO_FIELDS) == set(DType)


def test_a_header_of_ours_is_found_on_either_transport() -> None:
    for key in (headers.CONTRACT, over_http(headers.CONTRACT)):
        assert own_header({key: "{}"}, headers.CONTRACT) == "{}"
    assert own_header({"contract": "{}"}, headers.CONTRACT) == ""


def test_what_one_side_writes_the_other_reads() -> None:
    ids = "1" * 32, "2" * 16, "01"
    assert read_traceparent(write_traceparent(*ids)) == ids
    seconds = dict.fromkeys(headers.STAGES, 0.25)
    assert read_server_timing(write_server_timing(seconds)) == dict.fromkeys(headers.STAGES, 250)
    values = [b"", b"\xff" * 300, b"x"]
    assert list(tensors.unpack_strings(b"".join(map(tensors.pack_string, values)))) == values
