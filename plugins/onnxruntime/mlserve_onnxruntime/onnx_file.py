"""Open the user's own ONNX file: its interface, and the graph of an image classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from mlserve.artifact import digest_of
from mlserve.classifiers import Network, classifier
from mlserve.errors import ExportError, MlserveError, ModelLoadFailed, reason_of
from mlserve.graph import ANYTHING, BOUNDS, SMALL, Bounds, Graph, Node, Op, by_name
from mlserve.image_input import (
    ONE_IMAGE_IN,
    ImageInput,
    Layout,
    image_input,
    not_images,
    or_grey,
)
from mlserve.kinds import is_for_tensors, kind_fact
from mlserve.load_options import LoadOptions
from mlserve.measure import Subject, measure
from mlserve.sources import Fact, How, Model, ModelRequest, Reference, TensorModel
from mlserve_onnxruntime.external_data import fill_weights, whole_model
from mlserve_onnxruntime.layout import described, image_spec, open_sizes
from mlserve_onnxruntime.opening import ERRORS_ONLY, LOAD_ERRORS
from mlserve_onnxruntime.runner import OnnxRunner, file_signature
from mlserve_onnxruntime.sessions import Sessions

_OPS = by_name(
    {
        Op.MOVE: (
            "Identity Reshape Squeeze Unsqueeze Flatten Transpose Slice Gather Split Concat Cast "
            "CastLike QuantizeLinear DequantizeLinear Dropout Resize Upsample Expand"
        ),
        Op.ADD: "Add Sum",
        Op.SUBTRACT: "Sub",
        Op.MULTIPLY: "Mul",
        Op.DIVIDE: "Div",
        Op.NORMALIZE: "BatchNormalization",
        Op.CLIP: "Clip Min Max Relu",
        Op.MAP: "Neg Sqrt Pow Exp Log Abs Floor Round Reciprocal Sigmoid HardSigmoid Tanh Sign",
        Op.MEAN: "ReduceMean GlobalAveragePool AveragePool Mean",
        Op.LINEAR: "MatMul Gemm Conv ConvTranspose Einsum MatMulInteger ConvInteger QLinearConv "
        "QLinearMatMul FusedConv FusedMatMul",
        Op.SOFTMAX: "Softmax",
        Op.SHAPE: "Shape Size",
    }
)


def graph_of(path: Path, image: ImageInput, output: str, size: tuple[int, int]) -> Graph:
    """Return the graph of the model in that file, whose image input and output are known."""
    model = onnx.load(str(path), load_external_data=False)
    constants = dict(_constants(model.graph))
    return Graph(
        [_node(node, constants) for node in model.graph.node],
        image.name,
        output,
        constants,
        _fetch(model, path, image, size),
    )


def _constants(graph: Any) -> Iterator[tuple[str, Bounds]]:
    tensors = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant":
            value = onnx.helper.get_node_attr_value(node, node.attribute[0].name)
            if isinstance(value, onnx.TensorProto):
                tensors.append((node.output[0], value))
            elif isinstance(value, float):
                yield node.output[0], (value, value)
    for name, tensor in tensors:
        is_here = tensor.data_location != onnx.TensorProto.EXTERNAL
        if is_here and tensor.data_type in _FLOATS and 0 < np.prod(tensor.dims) <= SMALL:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            yield name, (float(values.min()), float(values.max()))


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def _node(node: Any, constants: dict[str, Bounds]) -> Node:
    kind = node.op_type
    op = _OPS.get(kind, Op.OTHER) if node.domain in ("", "ai.onnx", "com.microsoft") else Op.OTHER
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    if kind == "BatchNormalization" and attributes.get("training_mode"):
        op = Op.OTHER
    bounds = BOUNDS.get(kind, ANYTHING)
    if kind == "Clip":
        bounds = _clip_bounds(node, attributes, constants)
    if kind in ("Min", "Max"):
        limits = [constants[name] for name in node.input if name in constants]
        op = op if limits else Op.OTHER
        if limits:
            bounds = (-np.inf, limits[0][1]) if kind == "Min" else (limits[0][0], np.inf)
    return Node(op, list(filter(None, node.input)), list(node.output), kind, bounds)


def _clip_bounds(node: Any, attributes: dict[str, Any], constants: dict[str, Bounds]) -> Bounds:
    """Return its limits: inputs from opset 11 on, attributes before."""
    low, high = (
        constants.get(node.input[at], ANYTHING) if len(node.input) > at else ANYTHING
        for at in (1, 2)
    )
    return attributes.get("min", low[0]), attributes.get("max", high[1])


def _fetch(
    model: Any, path: Path, image: ImageInput, size: tuple[int, int]
) -> Callable[[str, float], Any]:
    def fetch(name: str, value: float) -> Any:
        pixels = image.arranged(np.full((1, *size, image.depth), value, np.float32))
        if name == image.name:
            return pixels
        part = onnx.ModelProto()
        part.CopyFrom(_part(model, image.name, name))
        fill_weights(part, path.parent)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        try:
            session = onnxruntime.InferenceSession(
                part.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return session.run([name], {image.name: pixels})[0]
        except LOAD_ERRORS:  # a part that cannot run alone proves nothing
            return np.full(1, np.nan, np.float32)

    return fetch


def _part(model: Any, image: str, tensor: str) -> Any:
    """Return the model up to that tensor: the required nodes and their constants."""
    nodes, needed = [], {tensor}
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    graph = onnx.helper.make_graph(
        list(reversed(nodes)),
        "part",
        [item for item in model.graph.input if item.name == image],
        [onnx.ValueInfoProto(name=tensor)],
        [item for item in model.graph.initializer if item.name in needed],
    )
    return onnx.helper.make_model(
        graph,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        functions=model.functions,
    )


Array = np.ndarray[Any, Any]


def open_file(path: Path, request: ModelRequest) -> Model:
    """Open the model in that file: as a classifier if it can be one. Raises ExportError."""
    sessions = _opened(path)
    problem = _problem(path, sessions, request)
    if is_for_tensors(request, problem):
        return _as_tensors(path, sessions, request, problem)
    return classifier(request, _network(path, sessions, request))


def _problem(path: Path, sessions: Sessions, request: ModelRequest) -> ExportError | None:
    """Return why the model is not an image classifier; None if it can be one."""
    inputs, outputs = sessions.inputs, sessions.outputs
    several = _several(path, "inputs", inputs) or _several(path, "outputs", outputs)
    if several is not None:
        return several
    spec = image_spec(inputs[0])
    readings = ImageInput.readings(spec, request.pixels.depths)
    if not readings:
        return not_images(f"the model in {path}", described(inputs[0]), or_grey(spec))
    if readings[0].batch not in (None, 1):
        return ExportError(
            f"the model in {path} takes batches of {readings[0].batch} only "
            f"({described(inputs[0])})",
            hint="save the model with an open batch size, or with 1",
        )
    sizes = open_sizes(outputs[0].shape)
    if sizes is not None and len(sizes) != 2:  # noqa: PLR2004 - batch, classes
        return ExportError(
            f"the model in {path} gives {described(outputs[0])}, not [N,classes]",
            hint="export a classifier: one row of scores for each image",
        )
    return None


def _as_tensors(
    path: Path, sessions: Sessions, request: ModelRequest, problem: ExportError | None
) -> TensorModel:
    try:
        signature = file_signature(path, sessions.inputs, sessions.outputs)
    except ModelLoadFailed as error:
        raise ExportError(error.message, hint=error.hint) from error
    return TensorModel(
        name=request.model,
        content=path,
        framework="onnx",
        signatures=(signature,),
        source=f"file {path}",
        weights_digest=_digest(path),
        facts={"kind": kind_fact(request, problem)},
        reference=_reference(OnnxRunner(sessions, signature).run),
    )


def _network(path: Path, sessions: Sessions, request: ModelRequest) -> Network:
    """Measure the classifier in that file. Raises ExportError."""
    (tensor,), (output,) = sessions.inputs, sessions.outputs
    name = f"the model in {path}"
    image, layout_fact = image_input(
        name, image_spec(tensor), described(tensor), request, _runs(sessions, output.name)
    )
    height, width = image.size(name, request)
    run = _caller(sessions, image, output.name)
    graph = graph_of(path, image, output.name, (height, width))
    has_batches = image.batch is None
    try:
        subject = Subject(name, run, height, width, graph, has_batches, image.depth)
        contract = measure(subject, request)
    except MlserveError as error:
        if isinstance(error, ExportError):
            raise
        raise _does_not_run(path, (height, width), error) from error
    except ValueError as error:
        raise _does_not_run(path, (height, width), error) from error
    size_fact = Fact(How.FOUND, "its input has that size")
    return Network(
        _with_sizes(path, image, (height, width)) if image.has_open_sizes else path,
        (height, width),
        contract,
        f"file {path}",
        _digest(path),
        framework="onnx",
        depth=image.depth,
        facts={
            "size": Fact(How.GIVEN) if None in (image.height, image.width) else size_fact,
            "layout": layout_fact,
        },
        reference=_reference(lambda _, inputs: {"outputs": run(inputs["images"])}),
    )


def _reference(run: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]) -> Reference:
    """Return the file's answers on the CPU: what trained the model is not known."""
    return Reference(f"ONNX Runtime {onnxruntime.__version__} on the CPU", run)


def _opened(path: Path) -> Sessions:
    try:
        return Sessions(path, LoadOptions(provider="cpu", instances=1))
    except MlserveError as error:
        raise ExportError(error.message, hint="give a file that ONNX Runtime can load") from error


def _runs(sessions: Sessions, output: str) -> Callable[[ImageInput, tuple[int, int]], bool]:
    """Return a test of whether the model runs on a black image in some layout."""

    def runs(image: ImageInput, size: tuple[int, int]) -> bool:
        black = np.zeros((1, *size, image.depth), np.float32)
        try:
            sessions.run([output], {image.name: image.arranged(black)}, None)
        except MlserveError:  # not this layout
            return False
        return True

    return runs


def _caller(sessions: Sessions, image: ImageInput, output: str) -> Callable[[Array], Array]:
    def call(images: Array) -> Array:
        size = image.batch or len(images)
        arranged = image.arranged(images)
        return np.concatenate(
            [
                sessions.run([output], {image.name: arranged[at : at + size]}, None)[0]
                for at in range(0, len(arranged), size)
            ]
        )

    return call


def _with_sizes(path: Path, image: ImageInput, size: tuple[int, int]) -> Any:
    """Return the model with its input sizes filled in, so that a server can read them."""
    model = whole_model(path)
    (tensor,) = [item for item in model.graph.input if item.name == image.name]
    sizes = (*size, image.depth) if image.layout is Layout.NHWC else (image.depth, *size)
    for dimension, length in zip(tensor.type.tensor_type.shape.dim[1:], sizes, strict=True):
        dimension.dim_value = length
    del model.graph.value_info[:]  # computed for the open sizes
    return model


def _does_not_run(path: Path, size: tuple[int, int], error: Exception) -> ExportError:
    return ExportError(
        f"the model in {path} does not run on images of {size[1]}x{size[0]}: {reason_of(error)}",
        hint="check --input-size",
    )


def _several(path: Path, kind: str, tensors: Sequence[Any]) -> ExportError | None:
    if len(tensors) == 1:
        return None
    found = ", ".join(described(tensor) for tensor in tensors) or "none"
    return ExportError(
        f"the model in {path} has {len(tensors)} {kind}, not one: {found}", hint=ONE_IMAGE_IN
    )


def _digest(path: Path) -> str:
    """Return `sha256:<hex>` of the model including the weights beside its file."""
    return digest_of(whole_model(path).SerializeToString(deterministic=True))
