"""Write and replay the warm-up requests of a SavedModel.

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests` (a TFRecord file of
PredictionLog, at most 1000 records) when it loads a version, before it reports it as available.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlserve.tensors import DEFAULT_SIGNATURE
from mlserve.wire.proto.framework_pb2 import TensorProto
from mlserve.wire.proto.serving_pb2 import PredictionLog

PLACE = Path("assets.extra") / "tf_serving_warmup_requests"
MOST_RECORDS = 1000


def write_requests(into: Path, model: str, signatures: Sequence[str], image: bytes) -> None:
    """Write one request per signature, each with `image` as input, into the SavedModel."""
    path = into / PLACE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in signatures:
            writer.write(_record(model, signature, image))


def _record(model: str, signature: str, image: bytes) -> bytes:
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    tensor = tf.make_tensor_proto([image]).SerializeToString()
    request.inputs["image"].CopyFrom(TensorProto.FromString(tensor))
    data: bytes = log.SerializeToString()
    return data


def read_requests(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the signature and the inputs (arrays by name) of each request; none without the file.

    Records of kinds that mlserve does not serve are skipped. Raises TensorFlow's DataLossError for
    a damaged file.
    """
    path = folder / PLACE
    if not path.is_file():
        return
    for record in tf.data.TFRecordDataset(str(path)).take(MOST_RECORDS):
        log = PredictionLog.FromString(record.numpy())
        kind = log.WhichOneof("log_type")
        if kind is not None:
            request = getattr(log, kind).request
            inputs = _tensors(request) if kind == "predict_log" else _examples(request)
            tasks = request.tasks if kind == "multi_inference_log" else [request]
            for task in tasks:
                yield task.model_spec.signature_name or DEFAULT_SIGNATURE, inputs


def _tensors(request: Any) -> dict[str, Any]:
    return {name: _array(tensor) for name, tensor in request.inputs.items()}


def _examples(request: Any) -> dict[str, Any]:
    """Return the input of Classify, Regress or MultiInference: tf.Examples, context first."""
    sent = getattr(request.input, request.input.WhichOneof("kind") or "example_list")
    context = (
        sent.context.SerializeToString() if "context" in sent.DESCRIPTOR.fields_by_name else b""
    )
    rows = [context + example.SerializeToString() for example in sent.examples]
    return {"inputs": np.array([*rows, None], dtype=object)[:-1]}


def _array(tensor: Any) -> Any:
    theirs = type(tf.make_tensor_proto(0)).FromString(tensor.SerializeToString())
    return tf.make_ndarray(theirs)
