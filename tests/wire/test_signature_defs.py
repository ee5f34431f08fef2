"""SignatureDefs as TensorFlow writes them into files, and as servers send them."""

from __future__ import annotations

import pytest

from mlserve.tensors import DType
from mlserve.wire.proto.framework_pb2 import SignatureDef
from mlserve.wire.signature_defs import read_signature


def definition(method: str = "tensorflow/serving/predict") -> SignatureDef:
    """One input and one output, float32[?,3], as a server without tensor names sends them."""
    made = SignatureDef(method_name=method)
    for info in (made.inputs["x"], made.outputs["y"]):
        info.dtype = DType.FLOAT32.tf_name  # type: ignore[assignment]
        for size in (-1, 3):
            info.tensor_shape.dim.add(size=size)
    return made


def test_names_types_and_sizes_are_read() -> None:
    made = definition()
    made.inputs["a"].dtype = DType.BYTES.tf_name
    made.inputs["b"].CopyFrom(made.inputs["a"])
    made.inputs["b"].tensor_shape.SetInParent()
    made.inputs["c"].CopyFrom(made.inputs["b"])
    made.inputs["c"].tensor_shape.unknown_rank = True
    signature = read_signature("s", made)
    assert [str(spec) for spec in (*signature.inputs, *signature.outputs)] == [
        "a: bytes[...]",
        "b: bytes[]",
        "c: bytes[...]",
        "x: float32[?,3]",
        "y: float32[?,3]",
    ]


@pytest.mark.parametrize("method", ["predict", "classify", "regress"])
def test_the_method_is_its_last_word(method: str) -> None:
    assert read_signature("s", definition(f"tensorflow/serving/{method}")).method == method


def test_inputs_with_a_default_are_optional() -> None:
    made = definition()
    made.defaults["x"].dtype = DType.FLOAT32.tf_name
    made.defaults["gone"].dtype = DType.FLOAT32.tf_name
    assert read_signature("s", made).optional == {"x"}


def test_what_cannot_be_asked_is_refused() -> None:
    made = definition()
    made.inputs["x"].dtype = "DT_RESOURCE"
    with pytest.raises(ValueError, match="tf_number 20"):
        read_signature("s", made)
    made = definition()
    made.inputs["x"].coo_sparse.SetInParent()
    with pytest.raises(ValueError, match="x is not one tensor, but a sparse or composite one"):
        read_signature("s", made)
    with pytest.raises(ValueError, match="it has no outputs"):
        read_signature("s", SignatureDef())
