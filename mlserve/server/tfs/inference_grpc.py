"""Classify, Regress and MultiInference over gRPC, each from request bytes to response bytes.

What each method takes and gives is in `classify`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any

from mlserve.backend import HasDefinitions, Runner
from mlserve.deadline import Deadline
from mlserve.errors import InputTooLarge, InvalidInput, NotSupported, shortened
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
from mlserve.server.tensors import Array
from mlserve.server.tfs.classify import (
    CLASSIFY,
    INPUT,
    METHODS,
    REGRESS,
    ExampleMethod,
    check_takes_examples,
)
from mlserve.server.tfs.examples import fields_of, read_examples
from mlserve.server.tfs.model_spec import named_spec_of, spec_served, telling_of_servables
from mlserve.settings import ServerSettings
from mlserve.tensors import DEFAULT_SIGNATURE, Signature
from mlserve.wire.headers import RANDOM_WEIGHTS
from mlserve.wire.proto.framework_pb2 import SignatureDef
from mlserve.wire.proto.serving_pb2 import (
    InferenceResult,
    InferenceTask,
    ModelSpec,
    MultiInferenceResponse,
)
from mlserve.wire.proto.unread_input_pb2 import UnreadRequest

if TYPE_CHECKING:
    from mlserve.backend import Tensors

Answer = tuple[Served, bytes]
_TASKS, _INPUT = 1, 2
"""The fields of MultiInferenceRequest."""
_MOST_TASKS = 1000


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
