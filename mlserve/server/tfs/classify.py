"""Classify, Regress and MultiInference: TensorFlow Serving's methods that take tf.Examples.

`ExampleMethod` checks the signatures that each takes and builds its results; REST shares it.
`InferenceGrpc` answers the calls over gRPC.

The names of inputs and outputs are those of TensorFlow's signature_constants.h; the checks, their
messages and their order are those of TensorFlow Serving's classifier.cc and regressor.cc. As there,
a signature is recognised by its inputs and outputs, not by the method that it declares: SavedModels
of TensorFlow 2 declare `tensorflow/serving/predict` for all.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve.backend import HasDefinitions, Runner
from mlserve.deadline import Deadline
from mlserve.errors import (
    InferenceFailed,
    InputTooLarge,
    InvalidInput,
    NotSupported,
    bounded,
    shortened,
)
from mlserve.server.codec.proto_reader import read_message
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.job import InferenceCall
from mlserve.server.engine.work import Codec
from mlserve.server.listen.grpc.call import Context
from mlserve.server.listen.grpc.service import BytesMethod, deadline_of
from mlserve.server.models.loading import Served
from mlserve.server.models.models import Models
from mlserve.server.models.versions import VersionChoice
from mlserve.server.request import RequestRecord, begin, current
from mlserve.server.tensors import NUMPY, Array
from mlserve.server.tfs import json_tensors
from mlserve.server.tfs.examples import fields_of, read_examples
from mlserve.server.tfs.model_spec import named_spec_of, spec_served, telling_of_servables
from mlserve.settings import ServerSettings
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from mlserve.wire.headers import RANDOM_WEIGHTS
from mlserve.wire.proto.framework_pb2 import SignatureDef
from mlserve.wire.proto.serving_pb2 import (
    ClassificationResponse,
    ClassificationResult,
    InferenceResult,
    InferenceTask,
    ModelSpec,
    MultiInferenceResponse,
    RegressionResponse,
    RegressionResult,
)
from mlserve.wire.proto.unread_input_pb2 import UnreadRequest

if TYPE_CHECKING:
    from mlserve.backend import Tensors


Answer = tuple[Served, bytes]

INPUT = "inputs"
"""The input of serialized examples."""
_CLASSES, _SCORES = "classes", "scores"
_VALUES = "outputs"
_LABEL = TensorSpec(_CLASSES, DType.BYTES, None)
_NUMBER = TensorSpec(_SCORES, DType.FLOAT32, None)
_PREDICT = "Predict runs any signature; GetModelMetadata shows what each takes and gives"
_RANK = 2
_TASKS, _INPUT = 1, 2
"""The fields of MultiInferenceRequest."""
_MOST_TASKS = 1000


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


class InferenceGrpc:
    """The three methods that take examples, each from request bytes to response bytes."""

    def __init__(
        self,
        engine: Engine,
        models: Models,
        version_of: Callable[[ModelSpec], VersionChoice],
    ) -> None:
        self._engine = engine
        self._models = models
        self._version_of = version_of

    def methods(self) -> Mapping[str, BytesMethod]:
        """Return the methods by their names in the service."""
        return {
            "Classify": partial(self._infer, CLASSIFY),
            "Regress": partial(self._infer, REGRESS),
            "MultiInference": self._multi_inference,
        }

    async def _infer(self, method: ExampleMethod, data: bytes, context: Context) -> bytes:
        """Classify or Regress: run one signature on the examples of the request."""
        deadline = deadline_of(context, self._engine.default_timeout)
        request = await read_message(UnreadRequest, data, deadline)
        spec = named_spec_of(request)
        codec = ExamplesCodec(method, spec.signature_name, Examples(request.input, deadline))
        call = _call(spec, self._version_of(spec), codec, len(data))
        with telling_of_servables():
            served, response = await self._engine.serve(call)
        await _tell_of_random_weights(served, context)
        return response

    async def _multi_inference(self, data: bytes, context: Context) -> bytes:
        """MultiInference: run several signatures of one version on the same examples.

        Each is a call of its own to the engine, with its own time and place in the queue.
        """
        deadline = deadline_of(context, self._engine.default_timeout)
        tasks, sent = await _read_tasks(data, deadline)
        spec = tasks[0].model_spec if tasks else ModelSpec()
        if not spec.name:
            raise InvalidInput("ModelSpec has no name specified.")
        with telling_of_servables():
            version = self._engine.version_for(spec.name, self._version_of(spec))
            loaded = self._models.lease(spec.name, version)
        with loaded:
            methods = _methods_of(tasks, loaded.runner)
            examples = Examples(sent, deadline)
            calls = [
                _call(
                    task.model_spec,
                    loaded.version,
                    ExamplesCodec(method, task.model_spec.signature_name, examples, is_task=True),
                    len(data),
                )
                for task, method in zip(tasks, methods, strict=True)
            ]
            answers = await self._answer_all(calls)
            await _tell_of_random_weights(loaded.served, context)
        results = [InferenceResult.FromString(result) for _, result in answers]
        return MultiInferenceResponse(results=results).SerializeToString()

    async def _answer_all(self, calls: Sequence[InferenceCall[Answer]]) -> list[Answer]:
        """Return the answers to these parts of one request. Raises the first error."""
        whole = current()
        parts = [whole.part() for _ in calls]
        running = [
            asyncio.create_task(self._answer_part(part, call))
            for part, call in zip(parts, calls, strict=True)
        ]
        try:
            return await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            whole.take_in(parts)

    async def _answer_part(self, part: RequestRecord, call: InferenceCall[Answer]) -> Answer:
        begin(part)
        return await self._engine.serve(call)


class Examples:
    """A serialized Input, read once for all calls of one request.

    Two workers may both read it at once, with the same result.
    """

    def __init__(self, sent: bytes, deadline: Deadline) -> None:
        self._sent = sent
        self.deadline = deadline
        self._read: Array | None = None

    def read(self, settings: ServerSettings) -> Array:
        """Return the examples as object[N] of bytes. Raises what `read_examples` raises."""
        if self._read is None:
            self._read = read_examples(self._sent, settings, self.deadline)
        return self._read

    def __reduce__(self) -> tuple[type[Examples], tuple[PickleBuffer, Deadline]]:
        return Examples, (PickleBuffer(self._sent), self.deadline)


class ExamplesCodec(Codec[Answer]):
    """Classify, Regress or one task of MultiInference.

    The answer is which version gave it, and the serialized response; for a task an InferenceResult.
    """

    def __init__(
        self, method: ExampleMethod, signature: str, examples: Examples, *, is_task: bool = False
    ) -> None:
        self._method = method
        self._signature = signature
        self._examples = examples
        self._is_task = is_task
        self._count = 0

    @property
    def deadline(self) -> Deadline:
        """When the answer is due."""
        return self._examples.deadline

    def decode(
        self, signatures: Mapping[str, Signature], settings: ServerSettings
    ) -> tuple[Signature, Tensors]:
        signature = self._method.find(signatures, self._signature)
        check_takes_examples(signature)
        examples = self._examples.read(settings)
        self._count = len(examples)
        return signature, {INPUT: examples}

    def encode(self, served: Served, signature: Signature, outputs: Tensors) -> Answer:
        spec, result = (
            spec_served(served, signature.name),
            self._method.result(outputs, self._count),
        )
        response = (
            _as_result(self._method, spec, result)
            if self._is_task
            else self._method.response(model_spec=spec, result=result)
        )
        return served, response.SerializeToString()


def _call(
    spec: ModelSpec, version: VersionChoice, codec: ExamplesCodec, size: int
) -> InferenceCall[Answer]:
    deadline, signature = codec.deadline, spec.signature_name or DEFAULT_SIGNATURE
    return InferenceCall(spec.name, version, deadline, codec, size, signature)


async def _read_tasks(data: bytes, deadline: Deadline) -> tuple[list[InferenceTask], bytes]:
    """Return the tasks of a serialized MultiInferenceRequest, and its serialized Input."""
    fields = fields_of(data, _MOST_TASKS, deadline)
    if fields is None:
        raise InputTooLarge(f"the request has more than {_MOST_TASKS} tasks")
    sent = fields.get(_TASKS, ())
    tasks = [await read_message(InferenceTask, task, deadline) for task in sent]
    return tasks, b"".join(fields.get(_INPUT, ()))


def _methods_of(tasks: Sequence[InferenceTask], runner: Runner) -> list[ExampleMethod]:
    """Return the method of each task; all tasks must share one model and one input tensor.

    The checks and their order are those of TensorFlow Serving's multi_inference.cc. Raises
    InvalidInput, and NotSupported for an unknown method.
    """
    methods: list[ExampleMethod] = []
    names: set[str] = set()
    tensors: set[str] = set()
    for task in tasks:
        spec = task.model_spec
        if not spec.name:
            raise InvalidInput("Found ModelSpec with an empty model name.")
        if spec.name != tasks[0].model_spec.name:
            raise InvalidInput(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = spec.signature_name or DEFAULT_SIGNATURE
        if name in names:
            raise InvalidInput(f"Duplicate evaluation of signature: {shortened(name)}")
        if name not in runner.signatures:
            raise InvalidInput(f"Requested signature not found in model graph: {shortened(name)}")
        method = METHODS.get(task.method_name)
        if method is None:
            raise NotSupported(f"Unsupported signature method_name: {shortened(task.method_name)}")
        method.check(runner.signatures[name])
        names.add(name)
        tensors.add(_input_tensor(runner, name))
        if len(tensors) > 1:
            raise InvalidInput("Input tensor must be the same for all Signatures.")
        methods.append(method)
    return methods


def _input_tensor(runner: Runner, signature: str) -> str:
    """Return the tensor behind the signature's input of examples; its alias without a graph."""
    if not isinstance(runner, HasDefinitions) or signature not in runner.definitions:
        return INPUT
    return SignatureDef.FromString(runner.definitions[signature]).inputs[INPUT].name


def _as_result(method: ExampleMethod, served: ModelSpec, result: Any) -> InferenceResult:
    if method.name == CLASSIFY.name:
        return InferenceResult(model_spec=served, classification_result=result)
    return InferenceResult(model_spec=served, regression_result=result)


async def _tell_of_random_weights(served: Served, context: Context) -> None:
    if served.has_random_weights:
        await context.send_initial_metadata(((RANDOM_WEIGHTS, "1"),))
