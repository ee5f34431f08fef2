"""Classify, Regress and MultiInference: TensorFlow Serving's methods that take tf.Examples.

`ExampleMethod` checks the signatures that each takes and builds its results; REST shares it.
`inference_grpc` answers the calls over gRPC.

The names of inputs and outputs are those of TensorFlow's signature_constants.h; the checks, their
messages and their order are those of TensorFlow Serving's classifier.cc and regressor.cc. As there,
a signature is recognised by its inputs and outputs, not by the method that it declares: SavedModels
of TensorFlow 2 declare `tensorflow/serving/predict` for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve.errors import InferenceFailed, InvalidInput, bounded, shortened
from mlserve.server.tensors import NUMPY, Array
from mlserve.server.tfs import json_tensors
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from mlserve.wire.proto.serving_pb2 import (
    ClassificationResponse,
    ClassificationResult,
    RegressionResponse,
    RegressionResult,
)

if TYPE_CHECKING:
    from mlserve.backend import Tensors


INPUT = "inputs"
"""The input of serialized examples."""
_CLASSES, _SCORES = "classes", "scores"
_VALUES = "outputs"
_LABEL = TensorSpec(_CLASSES, DType.BYTES, None)
_NUMBER = TensorSpec(_SCORES, DType.FLOAT32, None)
_PREDICT = "Predict runs any signature; GetModelMetadata shows what each takes and gives"
_RANK = 2


class ExampleMethod(ABC):
    """Classify or Regress; `name` is the one that SignatureDefs and MultiInference tasks use."""

    name: str
    response: Any
    """The class of the response message."""

    @abstractmethod
    def check(self, signature: Signature) -> None:
        """Raise InvalidInput for a signature that does not suit this method."""

    @abstractmethod
    def result(self, outputs: Tensors, count: int) -> Any:
        """Return the message with the model's outputs for that many examples.

        Raises InvalidInput for outputs of another form, as TensorFlow Serving does, and
        InferenceFailed for a label that the message cannot hold.
        """

    @abstractmethod
    def rows(self, outputs: Tensors, count: int) -> list[Any]:
        """Return the same as JSON: one value for each example. Raises InvalidInput."""

    def find(self, signatures: Mapping[str, Signature], name: str) -> Signature:
        """Return the named signature; empty means `serving_default`. Raises InvalidInput."""
        wanted = name or DEFAULT_SIGNATURE
        if wanted not in signatures:
            raise InvalidInput(
                f"No signature was found with the name: {shortened(wanted)}",
                hint=f"there are: {bounded(', '.join(sorted(signatures)))}",
            )
        self.check(signatures[wanted])
        return signatures[wanted]


class Classify(ExampleMethod):
    """Labels, scores or both for each example, in the order in which the model gives them."""

    name = "tensorflow/serving/classify"
    response = ClassificationResponse

    def check(self, signature: Signature) -> None:
        outputs = {spec.name for spec in signature.outputs}
        if len(signature.inputs) != 1:
            raise _refused("Expected one input Tensor.")
        if len(outputs) not in (1, 2):
            raise _refused(f"Expected one or two output Tensors, found {len(outputs)}")
        _check_input(signature, "classification")
        if not outputs & {_CLASSES, _SCORES}:
            raise _refused(
                "Expected classification signature outputs to contain at least one of "
                f'"{_CLASSES}" or "{_SCORES}". Signature was: {_shown(signature)}'
            )

    def result(self, outputs: Tensors, count: int) -> ClassificationResult:
        labels, scores = _checked(outputs, count)
        result = ClassificationResult()
        for row in range(count):
            classes = result.classifications.add().classes
            for place in range(labels.shape[1]):
                classes.add(label=_text(labels[row, place]), score=scores[row, place])
        return result

    def rows(self, outputs: Tensors, count: int) -> list[Any]:
        labels, scores = _checked(outputs, count)
        texts = json_tensors.from_array(_LABEL, labels)
        numbers = json_tensors.from_array(_NUMBER, scores)
        return [
            [list(pair) for pair in zip(*row, strict=True)]
            for row in zip(texts, numbers, strict=True)
        ]


class Regress(ExampleMethod):
    """One number for each example."""

    name = "tensorflow/serving/regress"
    response = RegressionResponse

    def check(self, signature: Signature) -> None:
        if len(signature.inputs) != 1:
            raise _refused("Expected one input Tensor.")
        if len(signature.outputs) != 1:
            raise _refused("Expected one output Tensor.")
        _check_input(signature, "regression")
        if signature.outputs[0].name != _VALUES:
            raise _refused(f"No regression outputs found in SignatureDef: {_shown(signature)}")

    def result(self, outputs: Tensors, count: int) -> RegressionResult:
        result = RegressionResult()
        for value in _values(outputs, count).tolist():
            result.regressions.add(value=value)
        return result

    def rows(self, outputs: Tensors, count: int) -> list[Any]:
        rows: list[Any] = json_tensors.from_array(_NUMBER, _values(outputs, count))
        return rows


CLASSIFY, REGRESS = Classify(), Regress()
METHODS: Mapping[str, ExampleMethod] = {method.name: method for method in (CLASSIFY, REGRESS)}


def check_takes_examples(signature: Signature) -> None:
    """Raise InvalidInput unless the signature's only input holds strings."""
    (spec,) = signature.inputs
    if spec.dtype is not DType.BYTES:
        raise _refused(
            f"the input of signature '{signature.name}' is {spec.dtype.label}, and examples are "
            "serialized: bytes"
        )


def _check_input(signature: Signature, kind: str) -> None:
    if signature.inputs[0].name != INPUT:
        raise _refused(f"No {kind} inputs found in SignatureDef: {_shown(signature)}")


def _checked(outputs: Tensors, count: int) -> tuple[Array, Array]:
    """Return labels and scores of the same shape [N, classes]; a missing one is empty."""
    labels, scores = outputs.get(_CLASSES), outputs.get(_SCORES)
    for name, array, spec in ((_CLASSES, labels, _LABEL), (_SCORES, scores, _NUMBER)):
        if array is not None:
            _check_output(name, array, spec.dtype, count)
    if labels is None:
        assert scores is not None  # the signature has one of the two
        return np.full(scores.shape, b"", dtype=object), scores
    if scores is None:
        return labels, np.zeros(labels.shape, np.float32)
    if labels.shape != scores.shape:
        raise InvalidInput(
            "Tensors class and score should match in dim_size(1). Got "
            f"{labels.shape[1]} vs. {scores.shape[1]}"
        )
    return labels, scores


def _check_output(name: str, array: Array, dtype: DType, count: int) -> None:
    if array.ndim != _RANK:
        raise InvalidInput(
            f"Expected Tensor shape: [batch_size num_classes] but got {_sizes(array)}"
        )
    if array.dtype != NUMPY[dtype]:
        raise InvalidInput(f"Expected {name} Tensor of {dtype.tf_name}. Got: {_tf_name(array)}")
    if len(array) != count:
        raise InvalidInput(f"Expected {name} output batch size of {count}. Got: {len(array)}")


def _values(outputs: Tensors, count: int) -> Array:
    array = outputs[_VALUES]
    if array.ndim != 1 and (array.ndim != _RANK or array.shape[1] != 1):
        raise InvalidInput(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{_sizes(array)}"
        )
    if len(array) != count:
        raise InvalidInput(
            f"Input batch size did not match output batch size: {count} vs. {len(array)}"
        )
    if array.dtype != NUMPY[DType.FLOAT32]:
        raise InvalidInput(f"Expected output Tensor of DT_FLOAT.  Got: {_tf_name(array)}")
    return array.reshape(count)


def _text(label: object) -> str:
    data = label if isinstance(label, bytes) else str(label).encode()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InferenceFailed(
            f"the label {bounded(repr(data))} is not UTF-8, and a classification holds text",
            hint="ask with Predict, whose tensors hold any bytes",
        ) from error


def _shown(signature: Signature) -> str:
    def names(specs: Iterable[TensorSpec]) -> str:
        return ", ".join(map(str, specs))

    return bounded(f"({names(signature.inputs)}) -> ({names(signature.outputs)})")


def _tf_name(array: Array) -> str:
    return next((t.tf_name for t, dtype in NUMPY.items() if dtype == array.dtype), "DT_INVALID")


def _sizes(array: Array) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _refused(message: str) -> InvalidInput:
    return InvalidInput(message, hint=_PREDICT)
