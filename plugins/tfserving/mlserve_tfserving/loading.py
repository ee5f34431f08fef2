"""Loads a SavedModel of any age into signatures and the functions that run them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np  # noqa: TID253
import tensorflow as tf  # noqa: TID253
from tensorflow.python.saved_model.loader_impl import parse_saved_model  # noqa: TID253

from mlserve.errors import ModelLoadFailed
from mlserve.tensors import DType, Signature, TensorSpec
from mlserve.unsafe_ops import require_safe_ops
from mlserve_tfserving.messages import plain
from mlserve_tfserving.signatures import shape_of, signature_of

if TYPE_CHECKING:
    from mlserve.backend import Tensors

    Run = Callable[[Tensors], Tensors]

_log = logging.getLogger(__name__)
_v1 = tf.compat.v1


@dataclass(frozen=True)
class LoadedModel:
    """A SavedModel in memory.

    `owner` keeps its variables alive: the object that `tf.saved_model.load` gave, or a session.
    """

    owner: Any
    signatures: Mapping[str, Signature]
    functions: Mapping[str, Run]


def load_model(path: Path, threads: int, *, allow_unsafe_ops: bool = False) -> LoadedModel:
    """The SavedModel in that folder.

    Raises ModelLoadFailed when TensorFlow cannot read it, and when it can do more than compute
    unless that is allowed: what it is made of is looked at before anything of it runs.

    What `tf.saved_model.load` refuses is tried once more as TensorFlow Serving loads every model,
    in a session: SavedModels of TensorFlow 1 can have input names that are no Python names, or
    several graphs, of which the one tagged `serve` is taken.
    """
    if not allow_unsafe_ops:
        _require_safe(path)
    try:
        model = _load_objects(path)
    except Exception as error:  # noqa: BLE001  whatever the loader raises, it cannot read this
        try:
            model = _load_session(path, threads)
        except Exception:  # noqa: BLE001
            raise ModelLoadFailed(
                f"TensorFlow cannot load {path}: {type(error).__name__}: {plain(str(error))}",
                hint="export the model again: mlserve export; remove this version if it is not "
                "wanted",
            ) from error
    if not model.signatures:
        raise ModelLoadFailed(
            f"{path} has no signature that can be served",
            hint="save it with tf.saved_model.save(module, folder, signatures=...)",
        )
    return model


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
    tensors = {name: tf.constant(array, dtypes[name]) for name, array in inputs.items()}
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
        defined = _v1.saved_model.loader.load(session, ["serve"], str(path)).signature_def
    signatures = _servable(path, {n: partial(_defined, n, d) for n, d in defined.items()})
    functions = {name: _session_function(session, defined[name], s) for name, s in signatures}
    return LoadedModel(session, dict(signatures), functions)


def _session_function(session: Any, definition: Any, signature: Signature) -> Run:
    feeds = [spec.name for spec in signature.inputs]
    fetches = [spec.name for spec in signature.outputs]
    call = session.make_callable(
        [definition.outputs[name].name for name in fetches],
        feed_list=[definition.inputs[name].name for name in feeds],
    )

    def run(inputs: Tensors) -> Tensors:
        values = call(*(inputs[name] for name in feeds))
        return {
            spec.name: _as_array(value, spec.dtype is DType.BYTES)
            for spec, value in zip(signature.outputs, values, strict=True)
        }

    return run


def _defined(name: str, definition: Any) -> Signature:
    """The signature that a SignatureDef message describes. Raises ValueError, as `signature_of`."""
    if not definition.inputs or not definition.outputs:
        raise ValueError("it has no inputs or no outputs")
    return Signature(name, _tensor_specs(definition.inputs), _tensor_specs(definition.outputs))


def _tensor_specs(infos: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name, DType.from_tf_number(info.dtype), shape_of(tf.TensorShape(info.tensor_shape))
        )
        for name, info in sorted(infos.items())
    )


def _servable(
    path: Path, made: Mapping[str, Callable[[], Signature]]
) -> list[tuple[str, Signature]]:
    signatures = []
    for name, make in made.items():
        try:
            signatures.append((name, make()))
        except ValueError as error:
            _log.warning("%s: the signature %s is left out: %s", path, name, error)
    return signatures


def _as_array(value: Any, is_string: bool) -> np.ndarray[Any, Any]:
    return np.asarray(value, dtype=object) if is_string else np.asarray(value)
