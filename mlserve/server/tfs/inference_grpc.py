"""Classify, Regress and MultiInference of TensorFlow Serving's PredictionService."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from mlserve.backend import HasDefinitions, Runner
from mlserve.deadline import Deadline
from mlserve.errors import InputTooLarge, InvalidInput, NotSupported, shortened
from mlserve.server.dtypes import Array
from mlserve.server.grpc_service import RANDOM_WEIGHTS_KEY, Respond, deadline_of
from mlserve.server.input_check import DEFAULT_SIGNATURE
from mlserve.server.models.catalog import Catalog
from mlserve.server.models.loaded import LoadedVersion
from mlserve.server.models.versions import VersionChoice
from mlserve.server.port.grpc.context import Context
from mlserve.server.sight.exchange import Exchange, begin, current
from mlserve.server.tfs.examples import fields_of, read_examples
from mlserve.server.tfs.inference import (
    CLASSIFY,
    INPUT,
    METHODS,
    REGRESS,
    Method,
    check_takes_examples,
)
from mlserve.server.tfs.model_spec import named_spec_of, telling_of_servables
from mlserve.server.wire_read import read_message
from mlserve.server.work.engine import Call, Engine
from mlserve.tensors import Signature
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

    Answer = tuple[LoadedVersion, ModelSpec, Any]

_TASKS, _INPUT = 1, 2
"""The fields of MultiInferenceRequest."""
_MOST_TASKS = 1000


class InferenceGrpc:
    """The three methods that take examples; each takes a request's bytes and gives a response's."""

    def __init__(
        self,
        engine: Engine,
        repository: Catalog,
        version_of: Callable[[ModelSpec], VersionChoice],
    ) -> None:
        self._engine = engine
        self._repository = repository
        self._version_of = version_of

    def methods(self) -> Mapping[str, Respond]:
        """The methods by their names in the service."""
        return {
            "Classify": partial(self._infer, CLASSIFY),
            "Regress": partial(self._infer, REGRESS),
            "MultiInference": self._multi_inference,
        }

    async def _infer(self, method: Method, data: bytes, context: Context) -> bytes:
        """Classify or Regress: runs one signature on the examples of the request."""
        deadline = deadline_of(context, self._engine.default_timeout)
        self._engine.admit(deadline)  # before the message is read
        request = await read_message(UnreadRequest, data, deadline)
        spec = named_spec_of(request)
        read = partial(read_examples, request.input, self._engine.settings, deadline)
        call = _call(spec, self._version_of(spec), method, read, len(data))
        with telling_of_servables():
            loaded, served, result = await self._engine.submit(call, deadline)
        await _tell_of_random_weights(loaded, context)
        response: bytes = method.response(model_spec=served, result=result).SerializeToString()
        return response

    async def _multi_inference(self, data: bytes, context: Context) -> bytes:
        """MultiInference: several signatures of one version on the same examples.

        Each is a call of its own to the engine, which has its time and its place in the queue.
        """
        deadline = deadline_of(context, self._engine.default_timeout)
        self._engine.admit(deadline)  # before the message is read
        tasks, sent = await _read_tasks(data, deadline)
        spec = tasks[0].model_spec if tasks else ModelSpec()
        if not spec.name:
            raise InvalidInput("ModelSpec has no name specified.")
        with telling_of_servables():
            loaded = self._repository.lease(spec.name, self._version_of(spec))
        try:
            methods = _methods_of(tasks, loaded.runner)
            # Once for all of them; two workers at once may both read it, to the same end.
            read = cache(partial(read_examples, sent, self._engine.settings, deadline))
            calls = [
                _call(task.model_spec, loaded.version, method, read, len(data))
                for task, method in zip(tasks, methods, strict=True)
            ]
            answers = await self._answer_all(calls, deadline)
            await _tell_of_random_weights(loaded, context)
        finally:
            loaded.release()
        response = MultiInferenceResponse(
            results=[
                _as_result(method, served, result)
                for method, (_, served, result) in zip(methods, answers, strict=True)
            ]
        )
        return response.SerializeToString()

    async def _answer_all(self, calls: Sequence[Call[Answer]], deadline: Deadline) -> list[Answer]:
        """The answers to these calls, which are parts of one request. Raises the first error."""
        whole = current()
        parts = [whole.part() for _ in calls]
        running = [
            asyncio.create_task(self._answer_part(part, call, deadline))
            for part, call in zip(parts, calls, strict=True)
        ]
        try:
            return await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            whole.take_in(parts)

    async def _answer_part(self, part: Exchange, call: Call[Answer], deadline: Deadline) -> Answer:
        begin(part)
        return await self._engine.submit(call, deadline)


def _call(
    spec: ModelSpec, version: VersionChoice, method: Method, read: Callable[[], Array], size: int
) -> Call[Answer]:
    count = 0

    def decode(signatures: Mapping[str, Signature]) -> tuple[Signature, Tensors]:
        nonlocal count
        signature = method.find(signatures, spec.signature_name)
        check_takes_examples(signature)
        examples = read()
        count = len(examples)
        return signature, {INPUT: examples}

    def encode(loaded: LoadedVersion, signature: Signature, outputs: Tensors) -> Answer:
        served = ModelSpec(name=loaded.model, signature_name=signature.name)
        served.version.value = loaded.version
        return loaded, served, method.result(outputs, count)

    return Call(spec.name, version, decode, encode, size, spec.signature_name or DEFAULT_SIGNATURE)


async def _read_tasks(data: bytes, deadline: Deadline) -> tuple[list[InferenceTask], bytes]:
    """The tasks of a serialized MultiInferenceRequest, and its serialized Input."""
    fields = fields_of(data, _MOST_TASKS, deadline)
    if fields is None:
        raise InputTooLarge(f"the request has more than {_MOST_TASKS} tasks")
    sent = fields.get(_TASKS, ())
    tasks = [await read_message(InferenceTask, task, deadline) for task in sent]
    return tasks, b"".join(fields.get(_INPUT, ()))


def _methods_of(tasks: Sequence[InferenceTask], runner: Runner) -> list[Method]:
    """The method of each task, all of one model and one input tensor.

    The checks and their order are those of TensorFlow Serving's multi_inference.cc. Raises
    InvalidInput, and NotSupported for a method that there is not.
    """
    methods: list[Method] = []
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
    """The tensor behind the signature's input of examples; its alias where there is no graph."""
    if not isinstance(runner, HasDefinitions) or signature not in runner.definitions:
        return INPUT
    return SignatureDef.FromString(runner.definitions[signature]).inputs[INPUT].name


def _as_result(method: Method, served: ModelSpec, result: Any) -> InferenceResult:
    if method is CLASSIFY:
        return InferenceResult(model_spec=served, classification_result=result)
    return InferenceResult(model_spec=served, regression_result=result)


async def _tell_of_random_weights(loaded: LoadedVersion, context: Context) -> None:
    if loaded.has_random_weights:
        await context.send_initial_metadata(((RANDOM_WEIGHTS_KEY, "1"),))
