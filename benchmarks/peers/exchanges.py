"""One request to each kind of server, as bytes, and the label and score in its answer."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from mlserve.wire.headers import JSON_LENGTH
from mlserve.wire.proto.inference_pb2 import ModelInferRequest, ModelInferResponse
from mlserve.wire.proto.serving_pb2 import PredictRequest, PredictResponse

LABEL, SCORE = "label", "score"
TFS_GRPC = "/tensorflow.serving.PredictionService/Predict"
OIP_GRPC = "/inference.GRPCInferenceService/ModelInfer"

Answer = tuple[str, float | None]
"""The label, and the score where the server gives one."""


@dataclass(frozen=True)
class Exchange:
    """A request that is sent again and again: over HTTP to a path, or over gRPC to a method."""

    path: str
    body: bytes
    read: Callable[[bytes], Answer]
    """Returns what the body of an answer says."""
    headers: dict[str, str] = field(default_factory=dict)
    is_grpc: bool = False


Ask = Callable[[bytes], Exchange]
"""Returns the request for an image."""


def plain(path: str) -> Ask:
    """Return requests whose body is the image, and whose answer is JSON: label and score."""

    def ask(image: bytes) -> Exchange:
        return Exchange(path, image, _read_plain, {"content-type": "image/jpeg"})

    return ask


def form(path: str) -> Ask:
    """Return requests whose body is a form with the image as its file `image`; as `plain` else."""

    def ask(image: bytes) -> Exchange:
        boundary = "mlserve-bench-peers"
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="image"; filename="a.jpg"'
        head += "\r\ncontent-type: image/jpeg\r\n\r\n"
        body = head.encode() + image + f"\r\n--{boundary}--\r\n".encode()
        media_type = f"multipart/form-data; boundary={boundary}"
        return Exchange(path, body, _read_plain, {"content-type": media_type})

    return ask


def oip_binary(model: str, shape: tuple[int, ...] = (1,)) -> Ask:
    """Return Open Inference requests over REST: the image follows the JSON in binary form."""

    def ask(image: bytes) -> Exchange:
        data = struct.pack("<I", len(image)) + image
        parameters = {"binary_data_size": len(data)}
        tensor = {"name": "image", "datatype": "BYTES", "shape": shape, "parameters": parameters}
        head = json.dumps({"inputs": [tensor]}).encode()
        headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(len(head))}
        return Exchange(f"/v2/models/{model}/infer", head + data, _read_oip, headers)

    return ask


def oip_json(model: str) -> Ask:
    """Return Open Inference requests over REST with the image as base64, as MLServer reads it."""

    def ask(image: bytes) -> Exchange:
        data, parameters = [base64.b64encode(image).decode()], {"content_type": "base64"}
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": parameters}
        body = json.dumps({"inputs": [{**tensor, "data": data}]}).encode()
        headers = {"content-type": "application/json"}
        return Exchange(f"/v2/models/{model}/infer", body, _read_oip, headers)

    return ask


def tfs_json(model: str) -> Ask:
    """Return TensorFlow Serving's Predict requests over REST, with the image as base64."""

    def ask(image: bytes) -> Exchange:
        body = json.dumps({"inputs": [{"b64": base64.b64encode(image).decode()}]}).encode()
        headers = {"content-type": "application/json"}
        return Exchange(f"/v1/models/{model}:predict", body, _read_tfs, headers)

    return ask


def oip_grpc(model: str, shape: tuple[int, ...] = (1,)) -> Ask:
    """Return Open Inference requests over gRPC."""

    def ask(image: bytes) -> Exchange:
        request = ModelInferRequest(model_name=model)
        tensor = request.inputs.add(name="image", datatype="BYTES", shape=shape)
        tensor.contents.bytes_contents.append(image)
        return Exchange(OIP_GRPC, request.SerializeToString(), _read_oip_grpc, is_grpc=True)

    return ask


def tfs_grpc(model: str) -> Ask:
    """Return TensorFlow Serving's Predict requests over gRPC."""

    def ask(image: bytes) -> Exchange:
        request = PredictRequest()
        request.model_spec.name = model
        tensor = request.inputs["image"]
        tensor.dtype = _DT_STRING
        tensor.tensor_shape.dim.add(size=1)
        tensor.string_val.append(image)
        return Exchange(TFS_GRPC, request.SerializeToString(), _read_tfs_grpc, is_grpc=True)

    return ask


_DT_STRING = 7


def _read_plain(body: bytes) -> Answer:
    answer = json.loads(body)
    return str(answer[LABEL]), float(answer[SCORE])


def _read_tfs(body: bytes) -> Answer:
    return str(json.loads(body)["outputs"][0]), None


def _read_oip(body: bytes) -> Answer:
    outputs = {tensor["name"]: tensor["data"] for tensor in json.loads(body)["outputs"]}
    if LABEL in outputs:
        return outputs[LABEL][0], outputs[SCORE][0]
    return outputs["output_0"][0], None


def _read_oip_grpc(body: bytes) -> Answer:
    response = ModelInferResponse.FromString(body)
    index = {tensor.name: number for number, tensor in enumerate(response.outputs)}
    name = LABEL if LABEL in index else "output_0"
    tensor = response.outputs[index[name]]
    if not response.raw_output_contents:
        label = tensor.contents.bytes_contents[0].decode()
        score = response.outputs[index[SCORE]].contents.fp32_contents[0] if SCORE in index else None
        return label, score
    raw = response.raw_output_contents
    score = struct.unpack("<f", raw[index[SCORE]])[0] if SCORE in index else None
    return raw[index[name]][4:].decode(), score


def _read_tfs_grpc(body: bytes) -> Answer:
    return PredictResponse.FromString(body).outputs["output_0"].string_val[0].decode(), None
