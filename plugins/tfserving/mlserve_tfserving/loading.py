"""Load a SavedModel of any age into signatures and the functions that run them.

Signatures come from the file's SignatureDefs, or from the functions if it has none.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2, saved_model_pb2
from tensorflow.python.saved_model.loader_impl import parse_saved_model

from mlserve.artifact import EXPORT_AGAIN
from mlserve.errors import ModelLoadFailed, bounded
from mlserve.tensors import DType, Signature, TensorSpec, method_of
from mlserve.unsafe_ops import require_safe_ops
from mlserve.wire.signature_defs import read_signature
from mlserve_tfserving.writes import keeps_state

if TYPE_CHECKING:
    from mlserve.backend import Tensors

    Run = Callable[[Tensors], Tensors]


SERVE = "serve"
"""The tag of the graph to serve; a SavedModel can hold others, for example for training."""
BINARY, TEXT = "saved_model.pb", "saved_model.pbtxt"


def read_meta_graph(folder: Path) -> Any:
    """Return the MetaGraphDef tagged `serve` in the SavedModel of that folder.

    Raises OSError, and protobuf's DecodeError or ParseError for a damaged file, and ValueError when
    no graph has the tag.
    """
    binary = folder / BINARY
    if binary.is_file():
        model = saved_model_pb2.SavedModel.FromString(binary.read_bytes())
    else:
        model = text_format.Parse((folder / TEXT).read_text(), saved_model_pb2.SavedModel())
    graphs = [graph for graph in model.meta_graphs if list(graph.meta_info_def.tags) == [SERVE]]
    if not graphs:
        tags = [",".join(graph.meta_info_def.tags) for graph in model.meta_graphs]
        raise ValueError(f"no graph is tagged {SERVE!r}; there are: {'; '.join(tags) or 'none'}")
    return graphs[0]


def signature_of(name: str, function: Any) -> Signature:
    """Return the signature of a concrete function with named inputs and outputs.

    Raises ValueError for an element type that cannot be transmitted, such as a resource.
    """
    _, inputs = function.structured_input_signature
    if not inputs:  # traced with positional arguments
        inputs = {spec.name: spec for spec in function.structured_input_signature[0]}
    outputs = function.structured_outputs
    return Signature(name, _specs(inputs), _specs(outputs))


def shape_of(shape: Any) -> tuple[int | None, ...] | None:
    """Return the sizes of a TensorShape; None if its rank is unknown."""
    return None if shape.rank is None else tuple(shape.as_list())


def _specs(tensors: dict[str, Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(key, DType.from_tf_number(tensor.dtype.as_datatype_enum), shape_of(tensor.shape))
        for key, tensor in sorted(tensors.items())
    )


_AT_NODE = re.compile(r"(?:^|\n)([^\n]+)\n\s*\[\[\{\{node")
_ROOT_ERROR = re.compile(r"\(0\) [\w ]+: ([^\n]+)")
_NOISE = re.compile(r"\s*\[Op:\w+\]|\{\{[^}]*\}\}\s*")


def plain(message: str) -> str:
    """Return the line of the message that says what is wrong."""
    for pattern in (_ROOT_ERROR, _AT_NODE):
        match = pattern.search(message)
        if match:
            return bounded(_NOISE.sub("", match[1]))
    lines = [line for line in message.splitlines() if line.strip()]
    return bounded(_NOISE.sub("", lines[0])) if lines else "no reason given"


_log = logging.getLogger(__name__)
_v1 = tf.compat.v1
_INTERNAL = ("__saved_model_init_op", "__saved_model_train_op")
"""Signatures that name operations for loaders, not for callers."""


@dataclass(frozen=True)
class LoadedModel:
    """A SavedModel in memory.

    `owner` keeps its variables alive: the result of `tf.saved_model.load`, or a session.
    `definitions` are the SignatureDefs of its file, serialized, and `defaults` the values of inputs
    that a request may leave out, both by the name of the signature. One that `keeps_state` writes
    to its variables when it is called.
    """

    owner: Any
    signatures: Mapping[str, Signature]
    functions: Mapping[str, Run]
    definitions: Mapping[str, bytes] = field(default_factory=dict)
    defaults: Mapping[str, Tensors] = field(default_factory=dict)
    keeps_state: bool = False


def load_model(path: Path, threads: int, *, allow_unsafe_ops: bool = False) -> LoadedModel:
    """Load the SavedModel in that folder.

    Raises ModelLoadFailed when TensorFlow cannot read it, and when it can do more than compute
    unless that is allowed: its operations are checked before any of them runs.

    TensorFlow 1 models are loaded in a session, as TensorFlow Serving loads every model: they have
    no objects that `tf.saved_model.load` could restore, and its conversion of their graphs supports
    neither signatures without inputs nor variables as outputs. A model that `tf.saved_model.load`
    refuses is tried in a session, too.
    """
    if not allow_unsafe_ops:
        _require_safe(path)
    try:
        graph = read_meta_graph(path)
        has_objects = graph.HasField("object_graph_def")
        model = (_load_either_way if has_objects else _load_session)(path, threads)
    except Exception as error:  # whatever the loader raises, it cannot read this
        raise ModelLoadFailed(
            f"TensorFlow cannot load {path}: {type(error).__name__}: {plain(str(error))}",
            hint=EXPORT_AGAIN,
        ) from error
    if not model.signatures:
        raise ModelLoadFailed(
            f"{path} has no signature that can be served",
            hint="save it with tf.saved_model.save(module, folder, signatures=...)",
        )
    return replace(_described(model, graph.signature_def), keeps_state=keeps_state(graph))


def _load_either_way(path: Path, threads: int) -> LoadedModel:
    """Load as objects, else in a session. Raises the error of the first attempt."""
    try:
        return _load_objects(path)
    except Exception as error:  # noqa: BLE001
        try:
            return _load_session(path, threads)
        except Exception:  # noqa: BLE001
            raise error from None


def _described(model: LoadedModel, definitions: Mapping[str, Any]) -> LoadedModel:
    """Add what only the file says: the SignatureDefs, their methods and their defaults."""
    defaults = {name: _defaults(definitions[name]) for name in model.signatures}
    return replace(
        model,
        signatures={
            name: replace(
                signature,
                optional=frozenset(defaults[name]),
                method=method_of(definitions[name].method_name),
            )
            for name, signature in model.signatures.items()
        },
        definitions={name: item.SerializeToString() for name, item in definitions.items()},
        defaults={name: values for name, values in defaults.items() if values},
    )


def _defaults(definition: Any) -> Tensors:
    return {
        name: tf.make_ndarray(value)
        for name, value in definition.defaults.items()
        if name in definition.inputs
    }


def _require_safe(path: Path) -> None:
    try:
        saved = parse_saved_model(str(path))
    except Exception:  # noqa: BLE001  what cannot be read is refused by the loader, which reads it so
        return
    require_safe_ops(f"the SavedModel in {path}", saved.meta_graphs, ModelLoadFailed)


def _load_objects(path: Path) -> LoadedModel:
    loaded = tf.saved_model.load(str(path))
    found = {name: loaded.signatures[name] for name in loaded.signatures}
    signatures = _servable(path, {n: partial(signature_of, n, f) for n, f in found.items()})
    functions = {name: partial(_run_eagerly, found[name], _dtypes(s)) for name, s in signatures}
    return LoadedModel(loaded, dict(signatures), functions)


def _dtypes(signature: Signature) -> dict[str, Any]:
    return {spec.name: tf.as_dtype(spec.dtype.tf_number) for spec in signature.inputs}


def _run_eagerly(function: Any, dtypes: Mapping[str, Any], inputs: Tensors) -> Tensors:
    tensors = {
        name: tf.constant(_typed(array, dtypes[name]), dtypes[name])
        for name, array in inputs.items()
    }
    return {
        name: _as_array(tensor.numpy(), tensor.dtype == tf.string)
        for name, tensor in function(**tensors).items()
    }


def _load_session(path: Path, threads: int) -> LoadedModel:
    config = _v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
    )
    session = _v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        graph = _v1.saved_model.loader.load(session, [SERVE], str(path))
    defined = {n: d for n, d in graph.signature_def.items() if n not in _INTERNAL}
    made = {n: partial(_session_signature, session, n, d) for n, d in defined.items()}
    runs = _servable(path, made)
    signatures = {name: signature for name, (signature, _) in runs}
    return LoadedModel(session, signatures, {name: run for name, (_, run) in runs})


def _session_signature(session: Any, name: str, definition: Any) -> tuple[Signature, Run]:
    """Return the signature and its run function. Raises ValueError for one that cannot be served.

    `make_callable` would check the inputs against the placeholders' shapes before running the
    model; TensorFlow Serving's session does not, and neither does this callable.
    """
    signature = read_signature(name, definition)
    options = config_pb2.CallableOptions(
        feed=[definition.inputs[spec.name].name for spec in signature.inputs],
        fetch=[definition.outputs[spec.name].name for spec in signature.outputs],
    )
    dtypes = _dtypes(signature)
    try:
        call = session._make_callable_from_options(options)  # noqa: SLF001
    except (tf.errors.OpError, KeyError, TypeError) as error:
        raise ValueError(f"its graph lacks some of its tensors: {plain(str(error))}") from error

    def run(inputs: Tensors) -> Tensors:
        values = call(*(_typed(inputs[spec.name], dtypes[spec.name]) for spec in signature.inputs))
        return {
            spec.name: _as_array(value, spec.dtype is DType.BYTES)
            for spec, value in zip(signature.outputs, values, strict=True)
        }

    return signature, run


def _servable(path: Path, made: Mapping[str, Callable[[], Any]]) -> list[tuple[str, Any]]:
    """Return the usable results of `made`; signatures that cannot be served are logged."""
    signatures = []
    for name, make in made.items():
        try:
            signatures.append((name, make()))
        except ValueError as error:
            _log.warning("%s: the signature %s is left out: %s", path, name, error)
    return signatures


def _typed(array: Any, dtype: Any) -> Any:
    """Convert the array for TensorFlow: numpy has no quantised types of its own."""
    return array.view(dtype.as_numpy_dtype) if dtype.is_quantized else array


def _as_array(value: Any, is_string: bool) -> np.ndarray[Any, Any]:
    array = np.asarray(value, dtype=object) if is_string else np.asarray(value)
    return array.view(array.dtype[0]) if array.dtype.names else array
