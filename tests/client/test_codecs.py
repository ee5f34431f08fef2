"""What the client makes of labels and scores that a server sends."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from mlserve.client.adapter import ModelRef, Reply
from mlserve.client.answers import Answer, choose_label
from mlserve.client.endpoint import Endpoint
from mlserve.client.oip import with_classes
from mlserve.client.oip_grpc import OipGrpc
from mlserve.client.oip_rest import OipRest
from mlserve.client.refusals import refusal
from mlserve.client.tensor import Tensor
from mlserve.client.tfs_grpc import TfsGrpc
from mlserve.client.tfs_rest import TfsRest
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, InvalidInput
from mlserve.tensors import DType
from mlserve.wire.headers import JSON_LENGTH
from mlserve.wire.proto.inference_pb2 import ModelInferResponse
from mlserve.wire.proto.serving_pb2 import (
    GetModelMetadataResponse,
    PredictResponse,
    SignatureDefMap,
)

LATIN_1 = b"caf\xe9"


def over_oip_grpc(label: bytes) -> Answer:
    response = ModelInferResponse()
    response.outputs.add(name="label", datatype="BYTES", shape=[1])
    response.raw_output_contents.append(struct.pack("<I", len(label)) + label)
    return OipGrpc().read_answer(Reply(response.SerializeToString()))


def over_oip_rest(label: bytes) -> Answer:
    tail = struct.pack("<I", len(label)) + label
    parameters = {"binary_data_size": len(tail)}
    output = {"name": "label", "datatype": "BYTES", "shape": [1], "parameters": parameters}
    head = json.dumps({"outputs": [output]}).encode()
    return OipRest().read_answer(Reply(head + tail, {JSON_LENGTH: str(len(head))}))


def over_tfs_grpc(label: bytes) -> Answer:
    response = PredictResponse()
    tensor = response.outputs["label"]
    tensor.dtype = DType.BYTES.tf_number  # type: ignore[assignment]
    tensor.tensor_shape.dim.add(size=1)
    tensor.string_val.append(label)
    return TfsGrpc().read_answer(Reply(response.SerializeToString()))


def over_tfs_rest(label: bytes) -> Answer:
    return TfsRest().read_answer(Reply(b'{"outputs":[{"b64":"Y2Fm6Q=="}]}'))


@pytest.mark.parametrize("read", [over_oip_grpc, over_oip_rest, over_tfs_grpc, over_tfs_rest])
def test_a_label_that_is_not_utf8_is_named(read: Any) -> None:
    with pytest.raises(InferenceFailed, match=r"the server's label 'caf\\xe9' is not UTF-8 text"):
        choose_label(read(LATIN_1).outputs, 5)


def test_a_label_among_scores_that_is_not_utf8_is_an_error_too() -> None:
    labels = over_oip_grpc(LATIN_1).outputs["label"].values
    outputs = {"labels": Tensor((1, 1), labels), "scores": Tensor((1, 1), (0.5,))}
    with pytest.raises(InferenceFailed, match=r"label 'caf\\xe9' is not UTF-8"):
        choose_label(outputs, 5)


@pytest.mark.parametrize("score", ["nan", "-nan", "inf", "-inf", "NaN"])
def test_a_class_whose_score_is_not_a_number_is_named(score: str) -> None:
    classes = Tensor((1, 2), (f"{score}:1:zebra", "0.5:0:ox"))
    with pytest.raises(InferenceFailed, match=r"the score of zebra is -?(nan|inf)"):
        choose_label(with_classes({"probs": classes}, "probs"), 5)


@pytest.mark.parametrize("label", ["4:3", "16:9", "1:1", "0.5:7:a class", "nan:1"])
def test_a_label_like_a_class_is_a_label_unless_classes_were_asked_for(label: str) -> None:
    for answer in (over_oip_grpc(label.encode()), over_oip_rest(label.encode())):
        assert choose_label(answer.outputs, 5) == (label, ())
        assert choose_label(with_classes(answer.outputs, "scores"), 5) == (label, ())


def test_a_graph_whose_scores_are_nan_has_failed_though_its_check_says_invalid_argument() -> None:
    """TensorFlow Serving gives every failed assertion that code."""
    said = "image 1: 2 of 3 scores are NaN\n\t [[{{node Assert}}]]"
    error = refusal(InvalidInput, said, Endpoint.parse("h:1"), Deadline.after(1))
    assert type(error) is InferenceFailed
    assert "2 of 3 scores are NaN" in error.message


def test_both_transports_leave_out_the_signatures_that_cannot_be_asked() -> None:
    known = SignatureDefMap()
    for name in ("dense", "sparse", "without_outputs", "initializer"):
        made = known.signature_def[name]
        made.inputs["x"].dtype = made.outputs["y"].dtype = DType.FLOAT32.tf_name
        made.inputs["x"].name = made.outputs["y"].name = "node:0"
    known.signature_def["sparse"].inputs["x"].coo_sparse.SetInParent()
    known.signature_def["without_outputs"].ClearField("outputs")
    known.signature_def["initializer"].outputs["y"].dtype = "DT_RESOURCE"
    response, model = GetModelMetadataResponse(), ModelRef("m", 1)
    response.metadata["signature_def"].value = known.SerializeToString()
    spelt = {
        "model_spec": {"name": "m", "version": "1"},
        "metadata": {"signature_def": MessageToDict(known, preserving_proto_field_name=True)},
    }

    over_grpc = TfsGrpc().read_metadata(model, Reply(response.SerializeToString()))
    over_rest = TfsRest().read_metadata(model, Reply(json.dumps(spelt).encode()))

    assert [signature.name for signature in over_rest.signatures] == ["dense"]
    assert over_rest == over_grpc
