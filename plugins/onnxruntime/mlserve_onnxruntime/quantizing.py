"""Quantise an ONNX file to int8: statically, from the ranges on calibration inputs."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)

from mlserve.backend import Quantization
from mlserve.errors import ExportError, reason_of
from mlserve.image_input import ImageInput
from mlserve.load_options import LoadOptions
from mlserve.sources import Classifier, Model
from mlserve_onnxruntime.layout import image_spec
from mlserve_onnxruntime.opening import plain
from mlserve_onnxruntime.runner import to_runtime
from mlserve_onnxruntime.sessions import Sessions

IMAGES = "images"
"""The input of a classifier in `Quantization.calibration`."""
_ONE = LoadOptions(provider="cpu", instances=1)
_HINT = "check that the calibration inputs are those of the model, or leave --precision out"


def quantize(model: Model, file: Path, quantization: Quantization) -> None:
    """Rewrite the ONNX file with int8 convolutions and matrix products.

    Activations are uint8 and weights int8, with a scale for each channel: the pair that ONNX
    Runtime runs fast on x86. The weights use all 8 bits: `session_options` says why the sums are
    right without VNNI too. The last operation stays in float, as scores would else be rounded to
    256 values. Raises ExportError.
    """
    if not quantization.calibration:
        raise ExportError(
            f"int8 needs inputs of {model.name} to find the ranges of its numbers",
            hint="give some as they are in use, a few hundred are enough: --calibration DIR",
        )
    sessions = Sessions(file, _ONE)
    feeds = [_feed(model, sessions, inputs) for inputs in quantization.calibration]
    with tempfile.TemporaryDirectory(prefix="mlserve-quantize-") as name, _quiet():
        prepared = Path(name) / "prepared.onnx"
        try:
            # Symbolic shapes are of use to transformers only, and need SymPy.
            quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(file),
                _Reader(iter(feeds)),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_last_nodes(prepared),
            )
        except Exception as error:  # it has no common error
            raise ExportError(
                f"ONNX Runtime cannot quantise {model.name}: {plain(reason_of(error))}", hint=_HINT
            ) from error
    _require_quantised(model, file)
    require_finite(model, file, feeds[0])


def require_finite(model: Model, file: Path, feed: dict[str, Any]) -> None:
    """Run the file once. Raises ExportError unless every number that it gives is finite."""
    sessions = Sessions(file, _ONE)
    names = [output.name for output in sessions.outputs]
    for name, array in zip(names, sessions.run(names, feed, None), strict=True):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ExportError(
                f"the output {name} of {model.name} is not finite in the chosen precision",
                hint=_HINT,
            )


def _feed(model: Model, sessions: Sessions, inputs: Any) -> dict[str, Any]:
    """Return one calibration input as the file takes it."""
    if isinstance(model, Classifier):
        (only,) = sessions.inputs
        image = ImageInput.from_spec(image_spec(only), model.pipeline.preprocessing.depth)
        return {only.name: image.arranged(inputs[IMAGES])}
    return {name: to_runtime(name, array) for name, array in inputs.items()}


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # its module has no types
    """The calibration inputs as the quantisation reads them, one after another."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def _last_nodes(prepared: Path) -> list[str]:
    """Name every node, by which they are excluded; return those that give an output."""
    model = onnx.load(str(prepared))
    for index, node in enumerate(model.graph.node):
        node.name = f"{index}_{node.op_type}"
    onnx.save(model, str(prepared))
    outputs = {output.name for output in model.graph.output}
    return [node.name for node in model.graph.node if outputs.intersection(node.output)]


def _require_quantised(model: Model, file: Path) -> None:
    if any(node.op_type == "QuantizeLinear" for node in onnx.load(str(file)).graph.node):
        return
    raise ExportError(
        f"nothing in {model.name} can be quantised: it has no convolution or matrix product "
        "before its last operation",
        hint="leave --precision out",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantisation's advice, which is logged by the root logger, off the terminal."""
    ours = threading.get_ident()

    def says_more_than_advice(record: logging.LogRecord) -> bool:
        return record.thread != ours or record.levelno > logging.WARNING

    logging.root.addFilter(says_more_than_advice)
    try:
        yield
    finally:
        logging.root.removeFilter(says_more_than_advice)
