"""An inference of the Open Inference Protocol, independent of its encoding: JSON, binary or gRPC.

The protocol has no signatures: a request runs the default one, or the one that its parameter
`signature` names. An output with the parameter `classification` is not the tensor itself but its k
best classes, as strings of the form `score:index:label` (Triton's classification extension).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, NotFound
from mlserve.images import NAN, score_problem_text, scores_failed
from mlserve.server.codec.images import check_images, input_of
from mlserve.server.oip.parameters import Parameters
from mlserve.server.oip.tensors import from_bytes
from mlserve.server.tensors import (
    NUMPY,
    Array,
    check_batch_length,
    check_names,
    check_shape,
    find_signature,
)
from mlserve.settings import ServerSettings
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from mlserve.wire.headers import JSON_LENGTH

if TYPE_CHECKING:
    from mlserve.backend import Tensors


_MICROSECONDS = 1_000_000
_CLASSIFICATION = ("scores", "indices", "labels")
_MAX_RANK = 32
_MAX_SIZE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SentTensor:
    """One input as it was sent. `read` returns its values, flat, in the dtype of the spec.

    `read` is called once name, datatype and shape have been found to fit, and raises InvalidInput
    unless it holds exactly as many values as the shape needs.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    read: Callable[[TensorSpec, int], Array]


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """One requested output; `classes` of at least 1 asks for that many best classes."""

    name: str
    classes: int
    is_binary: bool | None = None

    @classmethod
    def from_parameters(cls, name: str, parameters: Parameters) -> WantedOutput:
        """Return the output of that name, with its parameters applied. Raises InvalidInput."""
        classes = parameters.count("classification") or 0
        return cls(name, classes, parameters.flag("binary_data"))


@dataclass(frozen=True, slots=True)
class AnswerTensor:
    """One output of the answer; the spec has its name and its type."""

    spec: TensorSpec
    value: Array


@dataclass(frozen=True, slots=True)
class InferRequest:
    """An inference request. Without `outputs`, all are returned.

    `is_binary` is the REST default for outputs that do not choose a form themselves. A request that
    is nothing but the value of its only input has it in `raw_body`, or in `files` if it is image
    files.
    """

    id: str
    parameters: Parameters
    inputs: Sequence[SentTensor]
    outputs: Sequence[WantedOutput]
    is_binary: bool = False
    raw_body: bytes | bytearray | None = None
    files: Sequence[bytes] = ()

    def sooner(self, deadline: Deadline) -> Deadline:
        """Return the deadline, or that of the parameter `timeout` (microseconds) if sooner.

        The timeout runs from the request's arrival; 0 is none, as in Triton. Raises InvalidInput.
        """
        microseconds = self.parameters.count("timeout")
        if not microseconds or microseconds >= deadline.timeout * _MICROSECONDS:
            return deadline
        timeout = microseconds / _MICROSECONDS
        return Deadline(deadline.expires_at - deadline.timeout + timeout, timeout)

    def hints(self) -> tuple[str, int]:
        """Return the request's signature and rows, as far as they are known before `decode`."""
        name = self.parameters.text("signature")
        rows = max((sent.shape[0] for sent in self.inputs if sent.shape), default=1)
        rows = max(rows, len(self.files))
        return name or DEFAULT_SIGNATURE, rows

    def decode(
        self, signatures: Mapping[str, Signature], settings: ServerSettings
    ) -> tuple[Signature, Tensors]:
        """Return the signature to run and its inputs. Raises NotFound, InvalidInput."""
        name = self.parameters.text("signature")
        signature = choose_signature(signatures, name, self.outputs)
        sent = self.inputs
        if self.files:
            return signature, input_of(signature, self.files, settings)
        if self.raw_body is not None:
            sent = [_raw_input(signature, self.raw_body)]
        return signature, read_inputs(signature, sent, settings)


def default_signature(signatures: Mapping[str, Signature]) -> Signature:
    """Return the signature of a request that names none: `serving_default`, or the only one.

    Raises NotFound.
    """
    if DEFAULT_SIGNATURE not in signatures and len(signatures) == 1:
        return next(iter(signatures.values()))
    return find_signature(signatures, DEFAULT_SIGNATURE)


def choose_signature(
    signatures: Mapping[str, Signature], name: str, wanted: Sequence[WantedOutput]
) -> Signature:
    """Return the signature to run for these outputs; for classifications, one with the scores.

    Raises NotFound, and InvalidInput for an output that it lacks or that is asked for twice.
    """
    asked = find_signature(signatures, name) if name else default_signature(signatures)
    runs = asked
    most = max((output.classes for output in wanted), default=0)
    if most:
        runs = _classifying(signatures, asked, most)
    names = {spec.name for spec in runs.outputs}
    allowed = names | {spec.name for spec in asked.outputs}
    for output in wanted:
        if output.name not in (allowed if output.classes else names):
            raise InvalidInput(
                f"signature '{runs.name}' has no output '{output.name}'; there are: "
                f"{', '.join(sorted(names))}",
                hint="the parameter 'signature' selects another signature",
            )
    if len({output.name for output in wanted}) != len(wanted):
        raise InvalidInput("an output is asked for twice")
    return runs


def read_inputs(
    signature: Signature,
    sent: Sequence[SentTensor],
    settings: ServerSettings,
) -> Tensors:
    """Return the arrays of the request, checked against the signature and the server's limits.

    Raises InvalidInput.
    """
    by_name = {tensor.name: tensor for tensor in sent}
    if len(by_name) != len(sent):
        raise InvalidInput("an input is sent twice")
    check_names(signature, by_name)
    longest = settings.max_batch_length
    given = signature.inputs_in(by_name)
    inputs = {spec.name: _read(spec, by_name[spec.name], longest) for spec in given}
    check_images(signature, inputs, settings)
    return inputs


def write_outputs(
    signature: Signature, outputs: Tensors, wanted: Sequence[WantedOutput]
) -> list[AnswerTensor]:
    """Return the requested outputs, in that order; all of them if none was named.

    Raises InvalidInput for more classes than the model gives, and InferenceFailed for classes whose
    scores are NaN.
    """
    specs = {spec.name: spec for spec in signature.outputs}
    if not wanted:
        return [AnswerTensor(spec, outputs[name]) for name, spec in specs.items()]
    return [
        AnswerTensor(TensorSpec(output.name, DType.BYTES, None), _classes(outputs, output.classes))
        if output.classes
        else AnswerTensor(specs[output.name], outputs[output.name])
        for output in wanted
    ]


def datatype_of(spec: TensorSpec) -> str:
    """Return the protocol's name of the tensor's type. Raises InvalidInput if it has none."""
    if spec.dtype.oip_name is None:
        raise InvalidInput(
            f"'{spec.name}' is {spec.dtype.label}, which the Open Inference Protocol has no type "
            "for",
            hint="ask over TensorFlow Serving's gRPC API",
        )
    return spec.dtype.oip_name


def _raw_input(signature: Signature, body: bytes | bytearray) -> SentTensor:
    """Read the body as the only input of the signature; BYTES is one string without its length."""
    if len(signature.required) != 1:
        raise InvalidInput(
            f"signature '{signature.name}' has {len(signature.required)} inputs; a raw binary "
            f"request ({JSON_LENGTH.title()}: 0) is for a model with one"
        )
    (spec,) = signature.required
    datatype = datatype_of(spec)
    if spec.dtype is DType.BYTES:
        one = (1,) if spec.shape is None else tuple(1 for _ in spec.shape)
        return SentTensor(
            spec.name, datatype, one, lambda *_: np.array([bytes(body), None], dtype=object)[:-1]
        )
    shape = _shape_of(spec, len(body) // NUMPY[spec.dtype].itemsize)
    read = partial(from_bytes, data=body)
    return SentTensor(spec.name, datatype, shape, read)


def _shape_of(spec: TensorSpec, count: int) -> tuple[int, ...]:
    """Return the shape of that many values; at most one size may be missing in the spec."""
    sizes = (None,) if spec.shape is None else spec.shape
    fixed = math.prod(size for size in sizes if size is not None)
    if sizes.count(None) > 1:
        raise InvalidInput(
            f"a raw binary request cannot say the shape of {spec}: send the tensor with its shape"
        )
    return tuple(count // max(fixed, 1) if size is None else size for size in sizes)


def _read(spec: TensorSpec, sent: SentTensor, max_batch_length: int) -> Array:
    expected = datatype_of(spec)
    if sent.datatype != expected:
        raise InvalidInput(f"input '{spec.name}' is {sent.datatype or 'untyped'}, not {expected}")
    if len(sent.shape) > _MAX_RANK or not all(0 <= size <= _MAX_SIZE for size in sent.shape):
        raise InvalidInput(
            f"the shape of input '{spec.name}' must have at most {_MAX_RANK} sizes, each of at "
            f"least 0 and at most {_MAX_SIZE}"
        )
    shape = _without_trailing_ones(spec, sent.shape)
    _check_shape(spec, shape)
    check_batch_length(spec, shape, max_batch_length)
    flat = sent.read(spec, math.prod(sent.shape))
    try:
        return flat.reshape(shape)
    except ValueError as error:  # sizes that overflow beside a zero
        raise InvalidInput(f"input '{spec.name}' has an impossible shape: {error}") from error


def _without_trailing_ones(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop the sizes beyond the rank of the spec if all of them are 1.

    Triton's clients send N strings as [N,1], as its models have no input without a second size.
    """
    if spec.dtype is not DType.BYTES or spec.shape is None:
        return shape
    rank = len(spec.shape)
    return shape[:rank] if set(shape[rank:]) == {1} else shape


def _check_shape(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    """Raise InvalidInput; a row [1,N] of strings could be one value or N, so it is not guessed."""
    try:
        check_shape(spec, shape)
    except InvalidInput as error:
        if spec.dtype is DType.BYTES and spec.shape == (None,) and shape[:-1] == (1,):
            error.message += f": send {shape[1]} strings as [{shape[1]}] or [{shape[1]}, 1]"
        raise


def _classifying(signatures: Mapping[str, Signature], asked: Signature, classes: int) -> Signature:
    """Return a signature with scores, indices and labels for the same inputs.

    It is the first that gives so many classes, or the one that gives most.
    """
    fits = [
        signature
        for signature in (asked, *signatures.values())
        if signature.inputs == asked.inputs
        and {spec.name for spec in signature.outputs}.issuperset(_CLASSIFICATION)
    ]
    enough = (signature for signature in fits if _classes_of(signature) >= classes)
    best = next(enough, None) or max(fits, key=_classes_of, default=None)
    if best is not None:
        return best
    raise NotFound(
        f"the parameter 'classification' needs a signature with the outputs "
        f"{', '.join(_CLASSIFICATION)}, and the model has none for the inputs of '{asked.name}'"
    )


def _classes_of(signature: Signature) -> float:
    """Return how many classes the signature gives; infinity if unknown."""
    shape = next(spec.shape for spec in signature.outputs if spec.name == "scores")
    return math.inf if not shape or shape[-1] is None else shape[-1]


def _classes(outputs: Tensors, classes: int) -> Array:
    """Return bytes[N, classes]: `score:index:label`, best first."""
    scores, indices, labels = (outputs[name] for name in _CLASSIFICATION)
    rows, given = scores.shape
    if classes > given:
        raise InvalidInput(
            f"{classes} classes are asked for, and the model gives its {given} best",
            hint="ask for fewer; a model whose export has no signature `ranking` is to be exported "
            "again",
        )
    _require_numbers(scores)
    texts = np.empty((rows, classes), dtype=object)
    for place in np.ndindex(texts.shape):
        # The shortest decimal that gives the same float32; Triton cuts after six decimals.
        score_and_index = f"{scores[place]}:{indices[place]}:"
        label: Any = labels[place]
        texts[place] = score_and_index.encode() + label
    return texts


def _require_numbers(scores: Array) -> None:
    """Raise InferenceFailed naming the first row with a NaN score, which cannot be ranked."""
    is_nan = np.isnan(scores)
    if is_nan.any():
        row = int(is_nan.any(axis=1).argmax())
        text = score_problem_text(int(is_nan[row].sum()), scores.shape[1], NAN)
        raise scores_failed(row, len(scores), text)
