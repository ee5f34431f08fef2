"""A model in its own framework, and what OpenVINO made of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openvino as ov

from mlserve.differences import Arrays
from mlserve.errors import ExportError, reason_of
from mlserve.sources import Classifier, Model
from mlserve.tensors import DType, TensorSpec
from mlserve_openvino.opening import name_of, plain

IMAGES, SCORES = "images", "scores"
"""The input and the output of a classifier that has no names of its own."""


@dataclass(frozen=True)
class Original:
    """A model that OpenVINO has converted.

    `run` gives the outputs of `framework` for inputs by name, and raises MlserveError.
    """

    framework: str
    model: ov.Model
    run: Callable[[Arrays], Arrays]


def scores_spec(model: Classifier) -> TensorSpec:
    """Return the output of a classifier."""
    units = 1 if model.pipeline.activation.is_binary else model.pipeline.classes
    return TensorSpec(SCORES, DType.FLOAT32, (None, units))


def converted(
    model: Model, content: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> ov.Model:
    """Convert what OpenVINO's frontends take, and give it these names and shapes.

    Raises ExportError when an operation has no counterpart in OpenVINO.
    """
    try:
        with _logging_kept():
            found = ov.convert_model(content)
        _name(found.inputs, inputs)
        _name(found.outputs, outputs)
        _require_one_name(found.inputs)
        found.reshape(
            {
                spec.name: ov.PartialShape([-1 if size is None else size for size in spec.shape])
                for spec in inputs
                if spec.shape is not None
            }
        )
    except Exception as error:  # a frontend raises whatever its framework and Python raise
        why = plain(error) if isinstance(error, RuntimeError) else reason_of(error)
        raise cannot_convert(model, why) from error
    return found


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Undo what a conversion does to the root logger: all warnings of the process would be lost."""
    root = logging.getLogger()
    level, filters = root.level, list(root.filters)
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters = filters


def cannot_convert(model: Model, why: str) -> ExportError:
    """Return the error for a model that OpenVINO cannot run."""
    return ExportError(
        f"the model {model.name} cannot be converted to OpenVINO: {why}",
        hint="export it with another backend: `mlserve plugins` lists them",
    )


def _name(ports: Sequence[Any], specs: Sequence[TensorSpec]) -> None:
    """Leave each input or output its one name: its own, or that of its place in the order."""
    if len(ports) != len(specs):
        raise ValueError(f"it has {len(ports)} inputs or outputs in place of {len(specs)}")
    names = [spec.name for spec in specs]
    own = [[name for name in names if name in port.get_names()] for port in ports]
    if all(len(found) == 1 for found in own):
        names = [name for (name,) in own]
    for port, name in zip(ports, names, strict=True):
        port.get_tensor().set_names({name})
    if [name_of(port) for port in ports] != names:
        raise ValueError("two of its outputs are the same tensor")


def _require_one_name(inputs: Sequence[Any]) -> None:
    """Raise ValueError for an input that is an output too, unchanged: they share their names."""
    for port in inputs:
        if len(port.get_names()) > 1:
            names = ", ".join(sorted(port.get_names()))
            raise ValueError(f"one of its outputs is an input, unchanged ({names})")
