"""What a caller asks of any signature, checked against the model's metadata before it is sent.

Names, missing inputs, element types and ranks are checked here; sizes are left to the runtime, as
on the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlserve.client.adapter import InferRequest
from mlserve.client.tensor import Tensor
from mlserve.client.values import plain, tensor_of
from mlserve.errors import InvalidInput, NotFound, UsageError, counted, shortened
from mlserve.hints import did_you_mean
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class Question:
    """The arguments of `infer`: inputs by name, and which signature and outputs are meant.

    Raises UsageError for a signature that is not a name.
    """

    inputs: Any
    signature: str | None
    outputs: Any

    def __post_init__(self) -> None:
        if self.signature is not None and not isinstance(self.signature, str):
            raise UsageError(
                f"signature must be a name, not {self.signature!r}",
                hint="see the names with mlserve metadata",
            )


@dataclass(frozen=True, slots=True)
class AskedSignature:
    """The signature that a question is about. `sent_as` is empty for a nameless function.

    A server of the Open Inference Protocol may declare no inputs; then any are sent, in the type
    that they have in Python.
    """

    model: str
    signature: Signature
    sent_as: str

    def __str__(self) -> str:
        named = f"signature '{self.sent_as}' of " if self.sent_as else ""
        return f"{named}the model {self.model}"

    @property
    def takes(self) -> str:
        """The inputs, for a message."""
        optional = self.signature.optional
        specs = (
            f"{spec} (optional)" if spec.name in optional else str(spec)
            for spec in self.signature.inputs
        )
        return f"it takes {', '.join(specs)}"


def signature_named(model: str, known: Sequence[str], wanted: str | None) -> str:
    """Return which of the signatures is meant: None is `serving_default`, or the only one.

    Raises NotFound for another, and UsageError if there are several, or none.
    """
    listed = ", ".join(known)
    if wanted is not None and wanted in known:
        return wanted
    if not known:
        raise UsageError(
            f"the server lists no signature of the model {model} that a request can be made for",
            hint="see what it lists with mlserve metadata",
        )
    if wanted is not None:
        raise NotFound(
            f"the model {model} has no signature {shortened(wanted)!r}",
            hint=f"{did_you_mean(wanted, known)}it has {listed}",
        )
    if DEFAULT_SIGNATURE in known:
        return DEFAULT_SIGNATURE
    if len(known) == 1:
        return known[0]
    raise UsageError(
        f"the model {model} has several signatures, and none is {DEFAULT_SIGNATURE}: {listed}",
        hint=f"choose one, for example {{signature {known[0]}}}",
    )


def checked_request(asked: AskedSignature, question: Question) -> InferRequest:
    """Return the request of the question. Raises InvalidInput, naming what does not fit.

    Raises UsageError if an output would have a type for which a package is missing.
    """
    _check_names(asked, question.inputs)
    outputs = _wanted_outputs(asked, question.outputs)
    _require_numpy_types(asked.signature, outputs)
    specs = {spec.name: spec for spec in asked.signature.inputs}
    inputs = {
        name: _tensor(name, specs.get(name), question.inputs[name])
        for name in specs or question.inputs
        if name in question.inputs
    }
    return InferRequest(asked.sent_as, inputs, outputs)


def _check_names(asked: AskedSignature, inputs: Any) -> None:
    """Raise InvalidInput unless every required input is there, and nothing that is not one."""
    known = [spec.name for spec in asked.signature.inputs]
    if not isinstance(inputs, Mapping):
        raise InvalidInput(
            f"infer takes inputs by name, not {type(inputs).__name__}; {asked.takes}",
            hint=f'write infer({{"{known[0] if known else "NAME"}": ...}})',
        )
    for name in inputs:
        if not isinstance(name, str):
            raise InvalidInput(f"the name of an input is text, not {name!r}", hint=asked.takes)
        if known and name not in known:
            raise InvalidInput(
                f"{asked} has no input {shortened(name)!r}",
                hint=did_you_mean(name, known) + asked.takes,
            )
    missing = [spec.name for spec in asked.signature.required if spec.name not in inputs]
    if missing:
        names = ", ".join(map(repr, missing))
        raise InvalidInput(
            f"{asked} needs {'an input' if len(missing) == 1 else 'inputs'} that "
            f"{'is' if len(missing) == 1 else 'are'} missing: {names}",
            hint=asked.takes,
        )


def _wanted_outputs(asked: AskedSignature, outputs: Any) -> tuple[str, ...]:
    """Return the names of the outputs that are wanted; none for all. Raises UsageError."""
    if outputs is None:
        return ()
    if isinstance(outputs, str | bytes) or not isinstance(outputs, Iterable):
        raise UsageError(
            f"outputs must be a list of names, not {outputs!r}",
            hint=f"write outputs=[{outputs!r}]" if isinstance(outputs, str) else "give names",
        )
    names, known = tuple(dict.fromkeys(outputs)), [spec.name for spec in asked.signature.outputs]
    if not names:
        raise UsageError("outputs is empty", hint="leave it out to get all outputs")
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"the name of an output is text, not {name!r}")
        if known and name not in known:
            raise InvalidInput(
                f"{asked} has no output {shortened(name)!r}",
                hint=f"{did_you_mean(name, known)}it gives {', '.join(known)}",
            )
    return names


def _require_numpy_types(signature: Signature, outputs: tuple[str, ...]) -> None:
    """Raise UsageError now for an output of a type that numpy needs a missing package for."""
    wanted = (spec for spec in signature.outputs if not outputs or spec.name in outputs)
    if any(spec.dtype is DType.BFLOAT16 for spec in wanted) and (arrays := numpy_arrays()):
        arrays.bfloat16()


def _tensor(name: str, spec: TensorSpec | None, value: Any) -> Tensor:
    tensor = _read(name, None if spec is None else spec.dtype, value)
    rank = None if spec is None or spec.shape is None else len(spec.shape)
    if rank is None or rank == len(tensor.shape):
        return tensor
    is_one_of_a_batch = rank == len(tensor.shape) + 1
    raise InvalidInput(
        f"input '{name}' has {len(tensor.shape)} dimensions, {list(tensor.shape)}; "
        f"the model takes {rank}: {spec}",
        hint="for a batch of one, put it into a list: [value]"
        if is_one_of_a_batch
        else f"give it {counted(rank, 'dimension')}",
    )


def _read(name: str, dtype: DType | None, value: Any) -> Tensor:
    if hasattr(value, "__array__") and (arrays := numpy_arrays()):
        tensor: Tensor = arrays.from_array(name, dtype, value)
        return tensor
    return tensor_of(name, dtype, plain(value))


def numpy_arrays() -> Any:
    """Return the module that converts numpy's arrays; None if numpy is not installed."""
    try:
        from mlserve.client import arrays
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        return None
    return arrays
