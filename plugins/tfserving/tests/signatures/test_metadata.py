"""What GetModelMetadata and /metadata say of a SavedModel: what its file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from mlserve.client import Client
from mlserve.tensors import DType, TensorSpec

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]
OTHER_VALUES = ("resource_handle_val", "variant_val", "float8_val")
"""Fields of a TensorProto for values that no default has; ours does not know them."""
MODELS = ("half_plus_two", "odd", "new")


def defined(models: Path, model: str) -> dict[str, Any]:
    """The SignatureDefs of the file, as TensorFlow reads them."""
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    folder, message = models / model / "1", saved_model_pb2.SavedModel()
    if (folder / "saved_model.pb").exists():
        message.ParseFromString((folder / "saved_model.pb").read_bytes())
    else:
        text_format.Parse((folder / "saved_model.pbtxt").read_text(), message)
    return dict(message.meta_graphs[0].signature_def)


@pytest.mark.parametrize("model", MODELS)
def test_grpc_shows_the_signature_defs_of_the_file(
    models: Path, apis: Any, stub: Any, model: str
) -> None:
    message = apis.get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = model
    answer = stub.GetModelMetadata(message, 10)
    shown = apis.get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(shown)
    assert dict(shown.signature_def) == defined(models, model)
    assert answer.model_spec.version.value == 1


@pytest.mark.parametrize("model", MODELS)
def test_rest_shows_the_signature_defs_of_the_file(
    models: Path, server: Any, ready: None, model: str
) -> None:
    shown = server.get(f"v1/models/{model}/metadata").json()["metadata"]["signature_def"]
    in_file = {
        name: json_format.MessageToDict(
            definition,
            always_print_fields_with_no_presence=True,
            preserving_proto_field_name=True,
        )
        for name, definition in defined(models, model).items()
    }
    for definition in in_file.values():
        for default in definition["defaults"].values():
            for field in OTHER_VALUES:
                assert not default.pop(field)
    assert shown == {"signature_def": in_file}


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_client_reads_what_is_shown(server: Any, ready: None, protocol: str) -> None:
    endpoint = server.grpc if protocol == "grpc" else f"http://{server.rest}"
    with Client(endpoint, model="odd", api="tfs") as client:
        signatures = {s.name: s for s in client.metadata(timeout=20).signatures}
    assert signatures["reference"].outputs[0] == TensorSpec("weight", DType.FLOAT32, (2,))
    assert signatures["shapeless"].inputs == (TensorSpec("x", DType.FLOAT32, None),)
    assert signatures["serving_default"].inputs == ()
    with Client(endpoint, model="new", api="tfs") as client:
        signatures = {s.name: s for s in client.metadata(timeout=20).signatures}
    assert signatures["serving_default"].optional == {"b"}
    assert "__saved_model_init_op" not in signatures


def test_methods_real_names_and_defaults_are_shown(server: Any, ready: None) -> None:
    half = server.get("v1/models/half_plus_two/metadata").json()
    regress = half["metadata"]["signature_def"]["signature_def"]["regress_x_to_y"]
    assert regress["method_name"] == "tensorflow/serving/regress"
    assert regress["inputs"]["inputs"]["name"] == "tf_example:0"
    assert regress["inputs"]["inputs"]["tensor_shape"] == {"dim": [], "unknown_rank": True}
    assert regress["defaults"] == {}
    new = server.get("v1/models/new/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert new["serving_default"]["defaults"]["b"]["float_val"] == [2.0]
    odd = server.get("v1/models/odd/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert odd["reference"]["outputs"]["weight"]["dtype"] == "DT_FLOAT_REF"
    assert odd["sparse"]["inputs"]["x"]["coo_sparse"]["values_tensor_name"]
