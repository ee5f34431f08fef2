"""Our message definitions: equal to the official ones on the wire, and up to date on disk."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from mlserve.wire.proto._pool import POOL

FOLDER = Path(str(files("mlserve.wire.proto")))
PUBLIC = (
    "example.proto",
    "framework.proto",
    "inference.proto",
    "inference_extensions.proto",
    "model_config.proto",
    "serving.proto",
)
FILES = (*PUBLIC, "mlserve.proto", "server_files.proto", "torchserve.proto", "unread_input.proto")
OFFICIAL = (
    "tensorflow_serving.apis.prediction_service_pb2",
    "tensorflow_serving.apis.model_service_pb2",
    "tensorflow_serving.config.model_server_config_pb2",
    "tensorflow_serving.apis.prediction_log_pb2",
    "tritonclient.grpc.service_pb2",
)


def our_descriptors() -> list[Any]:
    """The files of which somebody publishes the official messages on PyPI."""
    return [POOL.FindFileByName(f"mlserve/wire/proto/{name}") for name in PUBLIC]


def messages(descriptor: Any) -> list[Any]:
    """The message types of a file, nested ones too."""
    found: list[Any] = []
    todo = list(descriptor.message_types_by_name.values())
    while todo:
        message = todo.pop()
        found.append(message)
        todo += message.nested_types
    return found


def wire_shape(field: Any) -> tuple[Any, ...]:
    """What decides how a field looks on the wire."""
    kind = "varint32" if field.type in (field.TYPE_INT32, field.TYPE_ENUM) else field.type
    named = field.message_type.full_name if field.message_type else None
    return (field.name, field.number, kind, field.is_repeated, field.is_packed, named)


@pytest.mark.server
def test_every_field_is_the_official_one() -> None:
    for name in OFFICIAL:
        importlib.import_module(name)
    official = descriptor_pool.Default()
    compared = 0
    for file in our_descriptors():
        for message in messages(file):
            theirs = official.FindMessageTypeByName(message.full_name)
            for field in message.fields:
                assert wire_shape(field) == wire_shape(theirs.fields_by_number[field.number])
                compared += 1
    assert compared > 60


@pytest.mark.server
def test_every_enum_value_is_the_official_one() -> None:
    for name in OFFICIAL:
        importlib.import_module(name)
    ours = [
        enum
        for file in our_descriptors()
        for owner in (file, *messages(file))
        for enum in owner.enum_types_by_name.values()
    ]
    assert len(ours) == 4
    for enum in ours:
        theirs = descriptor_pool.Default().FindEnumTypeByName(enum.full_name)
        for value in enum.values:
            assert theirs.values_by_name[value.name].number == value.number


@pytest.mark.server
def test_every_method_is_the_official_one() -> None:
    for name in OFFICIAL:
        importlib.import_module(name)
    for file in our_descriptors():
        for service in file.services_by_name.values():
            theirs = descriptor_pool.Default().FindServiceByName(service.full_name)
            for method in service.methods:
                official = theirs.methods_by_name[method.name]
                assert method.input_type.full_name == official.input_type.full_name
                assert method.output_type.full_name == official.output_type.full_name


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What protoc makes of the .proto files now."""
    folder = tmp_path_factory.mktemp("protos")
    sources = [f"mlserve/wire/proto/{name}" for name in FILES]
    output = [f"--descriptor_set_out={folder}/set", "--include_imports", f"--pyi_out={folder}"]
    root = FOLDER.parents[2]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", *output, *sources]
    subprocess.run(command, check=True, cwd=root)
    return folder


def test_the_descriptors_on_disk_are_up_to_date(generated: Path) -> None:
    kind = descriptor_pb2.FileDescriptorSet
    on_disk = kind.FromString((FOLDER / "descriptors.binpb").read_bytes())
    fresh = kind.FromString((generated / "set").read_bytes())
    for one in (on_disk, fresh):
        for file in one.file:
            file.ClearField("source_code_info")
    ours = {file.name: file for file in on_disk.file}
    assert ours == {file.name: file for file in fresh.file}


@pytest.mark.parametrize("name", FILES)
def test_the_types_on_disk_are_up_to_date(generated: Path, name: str) -> None:
    stub = name.replace(".proto", "_pb2.pyi")
    fresh = generated / "mlserve" / "wire" / "proto" / stub
    assert (FOLDER / stub).read_text() == fresh.read_text()
