"""Quantise a model to int8 with NNCF: statically, from the ranges on calibration inputs."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any

import nncf
import numpy as np
import openvino as ov

from mlserve.backend import Quantization
from mlserve.errors import ExportError, reason_of
from mlserve.frameworks import unheard
from mlserve.image_input import ImageInput
from mlserve.image_pipeline.steps import activated
from mlserve.sources import Classifier, Model
from mlserve_openvino.opening import image_spec
from mlserve_openvino.original import IMAGES

if TYPE_CHECKING:
    from mlserve.backend import Tensors

_MOST_CALIBRATED = 300
"""The inputs that are run to find the ranges: NNCF's own default."""
_MAX_DROP = 0.01
"""The share of right answers that may be lost before operations are kept in float."""
_MOST_KEPT, _MOST_RANKED, _MOST_JUDGED = 8, 32, 200
"""How often operations are put back into float, at most; the inputs on which the operations are
ranked, a run for each; and those on which each result is judged. More takes many minutes."""


def quantized(model: Model, network: ov.Model, quantization: Quantization) -> ov.Model:
    """Return the model with int8 convolutions and matrix products, their weights per channel.

    Where the right classes of the inputs are known, the operations that lose them stay in float.
    Weights get 7 of the 8 bits. With all 8, sums of products saturate on CPUs without VNNI, and the
    same file gives other answers there. Raises ExportError.
    """
    if not quantization.calibration:
        raise ExportError(
            f"int8 needs inputs of {model.name} to find the ranges of its numbers",
            hint="give some as they are in use, a few hundred are enough: --calibration DIR",
        )
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    subset = min(_MOST_CALIBRATED, len(quantization.calibration))
    prepare = partial(_prepared, model, network)
    inputs = nncf.Dataset(quantization.calibration, prepare)
    try:
        with unheard("nncf"), redirect_stdout(io.StringIO()):  # its bars, on a terminal or not
            if isinstance(model, Classifier) and quantization.expected is not None:
                return nncf.quantize_with_accuracy_control(
                    network,
                    inputs,
                    nncf.Dataset(
                        list(zip(quantization.calibration, quantization.expected, strict=True))[
                            :_MOST_JUDGED
                        ],
                        lambda pair: prepare(pair[0]),
                    ),
                    partial(_accuracy, model, prepare),
                    max_drop=_MAX_DROP,
                    subset_size=subset,
                    advanced_quantization_parameters=advanced,
                    advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                        max_num_iterations=_MOST_KEPT, ranking_subset_size=_MOST_RANKED
                    ),
                )
            return nncf.quantize(network, inputs, subset_size=subset, advanced_parameters=advanced)
    except Exception as error:  # NNCF and OpenVINO have no common error
        raise ExportError(
            f"NNCF cannot quantise {model.name}: {reason_of(error)}",
            hint="check that the calibration inputs are those of the model, or export it in fp32 "
            "or bf16",
        ) from error


def _prepared(model: Model, network: ov.Model, inputs: Tensors) -> dict[int, Any]:
    """Return one calibration input by its place among the model's."""
    if isinstance(model, Classifier):
        depth = model.pipeline.preprocessing.depth
        image = ImageInput.from_spec(image_spec(network.inputs[0]), depth)
        return {0: image.arranged(inputs[IMAGES])}
    return {at: inputs[port.get_any_name()] for at, port in enumerate(network.inputs)}


def _accuracy(
    model: Classifier, prepare: Any, compiled: Any, pairs: Iterable[tuple[Tensors, int]]
) -> tuple[float, list[float]]:
    """Return the share of right answers, and which they are."""
    right = []
    for inputs, expected in pairs:
        outputs = np.asarray(compiled(prepare(inputs))[0])
        right.append(float(activated(outputs, model.pipeline.activation).argmax() == expected))
    return float(np.mean(right)), right
