"""Translate TensorFlow functions for `mlserve.graph`, and measure the models made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from mlserve.contract import Contract, Evidence, Scale
from mlserve.errors import ExportError, reason_of
from mlserve.graph import ANYTHING, BOUNDS, SMALL, Bounds, Graph, Node, Op, by_name
from mlserve.images import RGB
from mlserve.measure import Subject, measure
from mlserve.sources import ModelRequest

_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as image libraries convert colour to grey


class Forward(tf.Module):  # type: ignore[misc]
    """A model as backends call it: float32[N, height, width, 3 or channels] -> float32[N, units].

    `call` is the model; `tracked` holds its variables, so that saving this module saves them. A
    model of one channel gets an image of three in grey, another float type is converted.
    """

    def __init__(
        self, call: Callable[[Any], Any], tracked: Any, channels: int, dtype: Any = tf.float32
    ) -> None:
        super().__init__(name="classifier")
        self.call = call
        self.tracked = tracked
        self.channels = channels
        self.dtype = tf.as_dtype(dtype)

    def __call__(self, images: Any) -> Any:
        return tf.cast(self.call(self.prepared(images)), tf.float32)

    def prepared(self, images: Any) -> Any:
        """Convert the images to the model's number of channels and float type."""
        if self.channels == 1 and images.shape[-1] == RGB:
            images = tf.reduce_sum(images * tf.constant(_GREY_WEIGHTS), axis=-1, keepdims=True)
        return tf.cast(images, self.dtype)


_OPS = by_name(
    {
        Op.MOVE: (
            "Identity IdentityN Reshape Squeeze ExpandDims Transpose StridedSlice Slice ReverseV2 "
            "Gather GatherV2 Split SplitV Unpack Pack ConcatV2 Cast EnsureShape StopGradient "
            "PreventGradient CheckNumerics FakeQuantWithMinMaxVars ResizeBilinear ResizeBicubic "
            "ResizeNearestNeighbor ResizeArea"
        ),
        Op.ADD: "Add AddV2 AddN BiasAdd",
        Op.SUBTRACT: "Sub",
        Op.MULTIPLY: "Mul",
        Op.DIVIDE: "Div RealDiv DivNoNan",
        Op.NORMALIZE: "FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3",
        Op.CLIP: "Minimum Maximum ClipByValue Relu Relu6",
        Op.MAP: (
            "Neg Sqrt Rsqrt Square Pow Exp Log Abs Floor Round Rint Reciprocal Sigmoid Tanh Sign"
        ),
        Op.MEAN: "Mean AvgPool",
        Op.LINEAR: "MatMul BatchMatMul BatchMatMulV2 Conv2D DepthwiseConv2dNative Conv3D Einsum",
        Op.SOFTMAX: "Softmax",
        Op.SHAPE: "Shape ShapeN Size Rank",
    }
)


def measured(
    name: str,
    forward: Forward,
    size: tuple[int, int],
    request: ModelRequest,
    known: Evidence[Scale] | None = None,
    depth: int = RGB,
) -> Contract:
    """Measure the model; see `mlserve.measure`. Raises ExportError."""
    spec = tf.TensorSpec([None, *size, forward.channels], forward.dtype, name="images")

    def run(images: np.ndarray[Any, Any]) -> Any:
        return tf.cast(call(forward.prepared(tf.constant(images))), tf.float32).numpy()

    try:
        call = tf.function(forward.call, autograph=False).get_concrete_function(spec)
        subject = Subject(name, run, *size, _graph(call, spec), depth=depth)
        return measure(subject, request, known)
    except (tf.errors.OpError, ValueError, TypeError) as error:
        raise ExportError(
            f"{name} cannot be run with images of {size[0]}x{size[1]}: {reason_of(error)}",
            hint="say which size it was trained with: --input-size N",
        ) from error


def _graph(call: Any, spec: Any) -> Graph | None:
    """Return the function's graph, with variables as constants and inner functions inlined.

    Returns None if TensorFlow cannot freeze it, such as a model of more than 2 GiB.
    """
    try:
        frozen = convert_variables_to_constants_v2(call, lower_control_flow=False)
    except (ValueError, TypeError, RuntimeError, tf.errors.OpError):
        return None
    operations = frozen.graph.get_operations()
    constants = dict(_constants(operations))
    return Graph(
        [_node(operation, constants) for operation in operations],
        frozen.inputs[0].name,
        frozen.outputs[0].name,
        constants,
        _fetch(frozen, spec),
    )


def _constants(operations: list[Any]) -> Iterator[tuple[str, Bounds]]:
    for operation in operations:
        if operation.type != "Const" or not operation.outputs[0].dtype.is_floating:
            continue
        tensor = operation.outputs[0]
        if 0 < (tensor.shape.num_elements() or 0) <= SMALL:
            values = tf.make_ndarray(operation.get_attr("value")).astype(np.float64)
            yield tensor.name, (float(values.min()), float(values.max()))


def _node(operation: Any, constants: dict[str, Bounds]) -> Node:
    inputs = [tensor.name for tensor in operation.inputs]
    kind = operation.type
    op = _OPS.get(kind, Op.OTHER)
    bounds = BOUNDS.get(kind, ANYTHING)
    if kind.startswith("FusedBatchNorm") and operation.get_attr("is_training"):
        op = Op.OTHER
    if kind in ("Minimum", "Maximum"):
        limits = [constants[name] for name in inputs if name in constants]
        op = op if limits else Op.OTHER
        if limits and kind == "Minimum":
            bounds = (-np.inf, limits[0][1])
        elif limits:
            bounds = (limits[0][0], np.inf)
    if kind == "ClipByValue":
        bounds = constants.get(inputs[1], ANYTHING)[0], constants.get(inputs[2], ANYTHING)[1]
    return Node(op, inputs, [tensor.name for tensor in operation.outputs], kind, bounds)


def _fetch(frozen: Any, spec: Any) -> Callable[[str, float], Any]:
    def fetch(name: str, value: float) -> Any:
        image = tf.fill([1, *spec.shape[1:]], tf.cast(value, spec.dtype))
        tensor = frozen.graph.get_tensor_by_name(name)
        if name == frozen.inputs[0].name:
            return image.numpy()
        pruned = frozen.prune([frozen.inputs[0]], [tensor])
        return tf.cast(pruned(image)[0], tf.float32).numpy()

    return fetch
