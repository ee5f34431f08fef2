"""The graph of a converted estimator, with the inputs and outputs of the estimator's signature.

skl2onnx takes columns as [N, 1], and names and shapes its outputs in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
from onnx import TensorProto, compose, helper, numpy_helper

from mlserve.tensors import DType, Signature, TensorSpec
from mlserve_onnxruntime.sklearn_trees import TreeNumbers

ONNX_ML = "ai.onnx.ml"
"""The domain of ONNX' operators for trees, vectors and the like."""
OPSETS = {"": 19, ONNX_ML: 3}
_LEAST_OPSET = 13
_IR_VERSION = 9

_PREFIX = "estimator_"
_ELEMENTS = {
    DType.FLOAT64: TensorProto.DOUBLE,
    DType.FLOAT32: TensorProto.FLOAT,
    DType.INT64: TensorProto.INT64,
    DType.BOOL: TensorProto.BOOL,
    DType.BYTES: TensorProto.STRING,
}


class Variant(Enum):
    """How numbers go through the graph. The check of the answers says which one is right."""

    DOUBLE = "float64"
    """As the estimator computes."""
    FLOAT = "float32"
    """For converters and operators that have no float64."""

    @property
    def dtype(self) -> DType:
        """Return the type of the numbers that the converted estimator takes."""
        return DType.FLOAT32 if self is Variant.FLOAT else DType.FLOAT64


def with_signature(
    proto: Any,
    signature: Signature,
    variant: Variant,
    columns: Sequence[str],
    trees: TreeNumbers,
) -> Any:
    """Return the converted model with that signature.

    `columns` name the inputs of `proto` if it takes one for each column of the matrix. Raises
    ValueError for an output that the converted model does not have.
    """
    inner = compose.add_prefix(proto, _PREFIX)
    body = _Body(_names_inside(signature, columns, [each.name for each in inner.graph.input]))
    for spec in signature.inputs:
        body.add_input(spec, variant, columns)
    for node in inner.graph.node:
        body.nodes += trees.corrected(node, _ELEMENTS[variant.dtype])
    given = [output.name for output in inner.graph.output]
    types = {output.name: output.type for output in inner.graph.output}
    for i, spec in enumerate(signature.outputs):
        name = given[min(i, 1)] if i < len(given) or spec.name[-1:].isdigit() else None
        if name is None:
            raise ValueError(f"the conversion has no output for {spec}")
        body.add_output(spec, name, types[name], part=i - 1)
    graph = helper.make_graph(
        body.nodes,
        "estimator",
        [_info(spec) for spec in signature.inputs],
        [_info(spec) for spec in signature.outputs],
        initializer=[*inner.graph.initializer, *body.constants],
    )
    opsets = {each.domain: each.version for each in inner.opset_import}
    opsets |= {"": max(opsets.get("", 0), _LEAST_OPSET), ONNX_ML: OPSETS[ONNX_ML]}
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)


def _names_inside(
    signature: Signature, columns: Sequence[str], inputs: Sequence[str]
) -> Mapping[str, str]:
    """Return the inputs of the converted model by the names that the conversion was given.

    skl2onnx puts `_` for what is no letter, digit or `_`, and keeps the order.
    """
    is_matrix = len(signature.inputs) == 1 and bool(columns)
    given = columns if is_matrix else [spec.name for spec in signature.inputs]
    if len(given) != len(inputs):
        return {name: _PREFIX + name for name in given}
    return dict(zip(given, inputs, strict=True))


class _Body:
    """The nodes and constants of a graph that is being made; `inside` is of `_names_inside`."""

    def __init__(self, inside: Mapping[str, str]) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._inside = inside

    def constant(self, values: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype=np.int64), name))
        return name

    def add(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **how: Any) -> None:
        self.nodes.append(helper.make_node(op_type, list(inputs), list(outputs), **how))

    def add_input(self, spec: TensorSpec, variant: Variant, columns: Sequence[str]) -> None:
        """Add what makes the estimator's inputs of one input of the signature."""
        source = spec.name
        if spec.dtype in (DType.FLOAT64, DType.FLOAT32):
            source = f"{_PREFIX}cast_{spec.name}"
            self.add("Cast", [spec.name], [source], to=_ELEMENTS[variant.dtype])
        if spec.shape is not None and len(spec.shape) == 1:
            self.add("Reshape", [source, self.constant([-1, 1])], [self._inside[spec.name]])
        elif columns:
            for i, name in enumerate(columns):
                inputs = [source, self.constant([i])]
                self.add("ArrayFeatureExtractor", inputs, [self._inside[name]], domain=ONNX_ML)
        else:
            self.add("Identity", [source], [self._inside[spec.name]])

    def add_output(self, spec: TensorSpec, name: str, given: Any, part: int) -> None:
        """Add what makes an output of the signature of an output of the estimator.

        The scores of several targets are its output [targets, N, classes], or a sequence of
        [N, classes], of which this is the `part`-th.
        """
        if given.HasField("sequence_type"):
            name = self._step("SequenceAt", spec, [name, self.constant(part)])
        elif spec.name[-1:].isdigit():
            name = self._step("Gather", spec, [name, self.constant(part)], axis=0)
        shape = self.constant([-1 if size is None else size for size in spec.shape or ()])
        if spec.dtype is DType.BYTES:
            self.add("Reshape", [name, shape], [spec.name])
            return
        shaped = self._step("Reshape", spec, [name, shape])
        self.add("Cast", [shaped], [spec.name], to=_ELEMENTS[spec.dtype])

    def _step(self, op_type: str, spec: TensorSpec, inputs: Sequence[str], **how: Any) -> str:
        name = f"{op_type}_{spec.name}"
        self.add(op_type, inputs, [name], **how)
        return name


def _info(spec: TensorSpec) -> Any:
    sizes = ["N" if size is None else size for size in spec.shape or ()]
    return helper.make_tensor_value_info(spec.name, _ELEMENTS[spec.dtype], sizes)
