"""Element types, tensor specs and signatures: a model's inputs and outputs, without numpy."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

DEFAULT_SIGNATURE = "serving_default"
"""The name of the signature that is meant by a request without one (signature_constants.h)."""
PREDICT = "predict"
"""The method of a signature that does not declare one."""
_METHODS = "tensorflow/serving/"
"""The prefix of the method names in TensorFlow's signature_constants.h."""


def method_of(method_name: str) -> str:
    """Return the `method` of a signature whose SignatureDef has that method name."""
    word = method_name.removeprefix(_METHODS)
    return word if word in ("classify", "regress") and word != method_name else PREDICT


_REFERENCES = 100
"""The DataType enum adds this to a type's number for a reference to a variable of the type."""


class DType(Enum):
    """An element type: its numpy name, TensorFlow's number and name, Open Inference's name.

    Numbers are those of TensorFlow's public `DataType` enum (types.proto). Complex and quantised
    types have no name in the Open Inference Protocol. A quantised tensor is passed as the integers
    it holds; their meaning is up to the model.
    """

    FLOAT32 = ("float32", 1, "DT_FLOAT", "FP32")
    FLOAT64 = ("float64", 2, "DT_DOUBLE", "FP64")
    INT32 = ("int32", 3, "DT_INT32", "INT32")
    UINT8 = ("uint8", 4, "DT_UINT8", "UINT8")
    INT16 = ("int16", 5, "DT_INT16", "INT16")
    INT8 = ("int8", 6, "DT_INT8", "INT8")
    BYTES = ("bytes", 7, "DT_STRING", "BYTES")
    COMPLEX64 = ("complex64", 8, "DT_COMPLEX64", None)
    INT64 = ("int64", 9, "DT_INT64", "INT64")
    BOOL = ("bool", 10, "DT_BOOL", "BOOL")
    QINT8 = ("qint8", 11, "DT_QINT8", None)
    QUINT8 = ("quint8", 12, "DT_QUINT8", None)
    QINT32 = ("qint32", 13, "DT_QINT32", None)
    BFLOAT16 = ("bfloat16", 14, "DT_BFLOAT16", "BF16")
    QINT16 = ("qint16", 15, "DT_QINT16", None)
    QUINT16 = ("quint16", 16, "DT_QUINT16", None)
    UINT16 = ("uint16", 17, "DT_UINT16", "UINT16")
    COMPLEX128 = ("complex128", 18, "DT_COMPLEX128", None)
    FLOAT16 = ("float16", 19, "DT_HALF", "FP16")
    UINT32 = ("uint32", 22, "DT_UINT32", "UINT32")
    UINT64 = ("uint64", 23, "DT_UINT64", "UINT64")

    def __init__(self, label: str, tf_number: int, tf_name: str, oip_name: str | None) -> None:
        self.label = label
        self.tf_number = tf_number
        self.tf_name = tf_name
        self.oip_name = oip_name

    @classmethod
    def from_label(cls, label: str) -> DType:
        """Return the type of that numpy name (`float32`, `bytes`, ...). Raises ValueError."""
        return _find("label", label)

    @classmethod
    def from_tf_number(cls, number: int) -> DType:
        """Return the type of that number in TensorFlow's DataType enum. Raises ValueError.

        A reference (DT_FLOAT_REF) points to a TensorFlow 1 variable, and has the type of its value.
        """
        return _find("tf_number", number % _REFERENCES)

    @classmethod
    def from_tf_name(cls, name: str) -> DType:
        """Return the type of that TensorFlow name (`DT_FLOAT`, ...). Raises ValueError."""
        return _find("tf_name", name.removesuffix("_REF"))


def _find(attribute: str, wanted: object) -> DType:
    for dtype in DType:
        if getattr(dtype, attribute) == wanted:
            return dtype
    raise ValueError(f"no element type with {attribute} {wanted!r}")


_SPEC = re.compile(r"([^:\[\]]+):\s*(\w+)\[([^\[\]]*)\]")


def _size(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{text!r} is not a size: give a whole number, or ? if it is open")
    return int(text)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named input or output. `shape` is None when the rank is unknown; an unknown size is None.

    The first size of a batched tensor is None.
    """

    name: str
    dtype: DType
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name}: {self.dtype.label}[...]"
        sizes = ",".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype.label}[{sizes}]"

    @classmethod
    def from_text(cls, text: str) -> TensorSpec:
        """Read the form of `str`, with or without the blank. Raises ValueError."""
        match = _SPEC.fullmatch(text.strip())
        if match is None:
            raise ValueError("it is not NAME:DTYPE[SIZE,SIZE,...]")
        name, label, sizes = match.groups()
        dtype = DType.from_label(label)
        if sizes == "...":
            return cls(name, dtype, None)
        shape = [size.strip() for size in sizes.split(",")] if sizes.strip() else []
        return cls(name, dtype, tuple(None if size == "?" else _size(size) for size in shape))

    def to_json(self) -> dict[str, Any]:
        shape = None if self.shape is None else list(self.shape)
        return {"name": self.name, "dtype": self.dtype.label, "shape": shape}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TensorSpec:
        shape = None if data["shape"] is None else tuple(data["shape"])
        return cls(data["name"], DType.from_label(data["dtype"]), shape)


@dataclass(frozen=True, slots=True)
class Signature:
    """A named function of a model: typed, named inputs and outputs.

    A request may leave out the inputs named in `optional`: the Runner has a value for each.
    `method` is the last word of the method that a TensorFlow model declares it for: `classify` and
    `regress` take serialized tf.Examples.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    optional: frozenset[str] = frozenset()
    method: str = field(default=PREDICT, compare=False)

    @property
    def required(self) -> tuple[TensorSpec, ...]:
        """Return the inputs that a request must have."""
        return tuple(spec for spec in self.inputs if spec.name not in self.optional)

    @property
    def has_rows(self) -> bool:
        """Whether the first size of every input and output is open: rows that can be stacked."""
        specs = (*self.inputs, *self.outputs)
        return all(spec.shape is not None and spec.shape[:1] == (None,) for spec in specs)

    def inputs_in(self, sent: Container[str]) -> tuple[TensorSpec, ...]:
        """Return the inputs that a request with these names contains."""
        return tuple(spec for spec in self.inputs if spec.name in sent)

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "name": self.name,
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
        }
        if self.optional:
            data["optional"] = sorted(self.optional)
        if self.method != PREDICT:
            data["method"] = self.method
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Signature:
        return cls(
            data["name"],
            tuple(TensorSpec.from_json(item) for item in data["inputs"]),
            tuple(TensorSpec.from_json(item) for item in data["outputs"]),
            frozenset(data.get("optional", ())),
            data.get("method", PREDICT),
        )
