"""Our reading of TensorProto against TensorFlow's own, on random messages."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from mlserve.errors import InvalidInput
from mlserve.server.tfs.tensor_proto import Expansion, to_array
from mlserve.settings import DEFAULT_SETTINGS
from mlserve.tensors import DType
from mlserve.wire.proto.framework_pb2 import TensorProto

pytestmark = pytest.mark.tensorflow
FIELDS = (
    *("float_val", "double_val", "int_val", "int64_val", "bool_val", "string_val"),
    *("half_val", "uint32_val", "uint64_val"),
)
WITH_A_LOSS = ("values in", "bytes of tensor_content", "neither 0 nor 1")
"""What is refused though TensorFlow takes it: it would leave something out."""


def message(chance: random.Random) -> TensorProto:
    proto = TensorProto(dtype=chance.choice([dtype.tf_name for dtype in DType]))
    for _ in range(chance.randint(0, 2)):
        proto.tensor_shape.dim.add(size=chance.randint(0, 3))
    for _ in range(chance.randint(0, 2)):
        field, count = chance.choice(FIELDS), chance.randint(0, 4)
        getattr(proto, field).extend([b"s" if field == "string_val" else 1] * count)
    if chance.random() < 0.2:
        proto.tensor_content = bytes(chance.choices((0, 1, 2), k=chance.randint(0, 13)))
    return proto


def test_what_both_read_is_the_same_and_we_refuse_only_what_would_be_lost() -> None:
    import tensorflow as tf

    def theirs(proto: TensorProto) -> Any:
        try:
            tensor = tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype))
        except tf.errors.InvalidArgumentError:
            return None
        return tensor.numpy()

    def ours(proto: TensorProto) -> tuple[Any, str]:
        try:
            return to_array("x", proto, Expansion(DEFAULT_SETTINGS.expanded_bytes)), ""
        except InvalidInput as error:
            return None, error.message

    chance, same = random.Random(12), 0
    for _ in range(1500):
        proto = message(chance)
        expected = theirs(proto)
        found, refusal = ours(proto)
        if refusal:
            assert expected is None or any(text in refusal for text in WITH_A_LOSS), proto
            continue
        assert expected is not None, proto
        assert found.shape == np.shape(expected)
        assert found.tolist() == np.asarray(expected).tolist()
        same += 1
    assert same > 200
