"""Interfaces between the client, its adapters (what to say) and its transports (how to send it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from mlserve.client.answers import Answer, ModelMetadata, VersionStatus
from mlserve.client.endpoint import Endpoint
from mlserve.client.retries import CallState
from mlserve.client.tensor import Tensor
from mlserve.tensors import DType

USUAL_TOP_K = 5
"""Classes requested if the caller does not say how many."""
_MOST_DIGITS = 19
"""Enough for a 64-bit number."""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model to ask; `version` None leaves the choice to the server."""

    name: str
    version: int | None


@dataclass(frozen=True, slots=True)
class SignatureChoice:
    """How to ask a model about one image: the signature, its one input and that input's shape.

    The shape has exactly one element: (1,) for a batch of one, () for a scalar. `signature` is
    empty if the model is a single nameless function. `scores` names an output of scores that the
    server is asked to turn into classes. `classes` is the number of classes in an answer; None if
    unknown.
    """

    signature: str
    input: str
    shape: tuple[int, ...]
    scores: str | None = None
    classes: int | None = None

    def request(self, asked: ImageRequest) -> InferRequest:
        """Return the request of this signature about an image."""
        return InferRequest(
            self.signature,
            {self.input: Tensor(self.shape, [asked.image], DType.BYTES)},
            classes=None if self.scores is None else (self.scores, asked.count),
            is_file=True,
        )

    def is_same_request(self, other: SignatureChoice) -> bool:
        """Return whether both make the same request."""
        return replace(self, classes=None) == replace(other, classes=None)


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """An image file's bytes, and how many of its best classes are wanted; None: the default."""

    image: bytes
    top_k: int | None

    @property
    def count(self) -> int:
        """How many classes to take from an answer."""
        return self.top_k or USUAL_TOP_K


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What one call asks of a signature: tensors that fit its inputs, and the outputs wanted.

    `signature` is empty for a model that is a single nameless function. Without `outputs` all are
    wanted. `classes` names an output of scores whose k best classes are wanted in its place. An
    image is a request with one string, its file (`is_file`).

    The last three are for the Open Inference Protocol over REST. `is_binary`: inputs follow the
    JSON as raw bytes; else they are in the JSON, files as base64. `wants_binary`: so are the
    outputs. `reads_base64`: the server decodes strings that are marked as base64.
    """

    signature: str
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...] = ()
    classes: tuple[str, int] | None = None
    is_file: bool = False
    is_binary: bool = True
    wants_binary: bool = False
    reads_base64: bool = False


@dataclass(frozen=True, slots=True)
class ServerAbout:
    """What a server of the Open Inference Protocol is called, and which extensions it has."""

    name: str
    extensions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `path` is the gRPC method or the URL path; a REST call without body is a GET."""

    path: str
    body: bytes | None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful answer: its body, and its HTTP headers or gRPC metadata, in lower case."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def number_of(text: str) -> int | None:
    """Return a version or a length as a number; None for anything else, or an absurdly long one."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
    return int(text) if is_number else None


class Adapter(Protocol):
    """One serving protocol without I/O: builds requests and reads answers.

    `seconds` is the time left. Every `read_...` raises `Unreadable`, saying what came, for a body
    that is not a valid answer. An answer to `is_bounded` has no more values than one about an
    image. The Open Inference Protocol describes one `signature` at a time, mlserve's own servers
    any by its name; empty is the default one.
    """

    def infer_call(self, model: ModelRef, request: InferRequest, seconds: float) -> Call: ...
    def read_answer(self, reply: Reply, *, is_bounded: bool = True) -> Answer: ...
    def metadata_call(self, model: ModelRef, signature: str = "") -> Call: ...
    def read_metadata(self, model: ModelRef, reply: Reply) -> ModelMetadata: ...


@dataclass(frozen=True, slots=True)
class SentRequest:
    """A request as a session sends it: `call` encodes it anew."""

    adapter: Adapter
    model: ModelRef
    request: InferRequest

    def call(self, seconds: float) -> Call:
        """Return the call with that time limit; infinity tells the server none."""
        return self.adapter.infer_call(self.model, self.request, seconds)


class TfsAdapter(Adapter, Protocol):
    """TensorFlow Serving's API, version 1: one call returns the states of all versions."""

    def status_call(self, model: ModelRef) -> Call: ...
    def read_status(self, reply: Reply) -> tuple[VersionStatus, ...]: ...


class OipAdapter(Adapter, Protocol):
    """The Open Inference Protocol: metadata lists the versions; each is asked whether it is ready.

    `read_versions` returns them as the server writes them, or nothing if it lists none.
    `about_call` asks for the name of the server and its extensions of the protocol; None if the
    answer would not contain any that this client uses.
    """

    def about_call(self) -> Call | None: ...
    def read_about(self, reply: Reply) -> ServerAbout: ...
    def read_versions(self, reply: Reply) -> tuple[str, ...]: ...
    def ready_call(self, model: ModelRef, version: str) -> Call: ...
    def read_ready(self, reply: Reply) -> bool: ...


class Transport(Protocol):
    """A connection to one server. Raises the errors of `mlserve.client.refusals`."""

    @property
    def endpoint(self) -> Endpoint: ...
    async def send(self, call: Call, state: CallState) -> Reply:
        """Return the reply to `call`, never sent after the deadline; `state` follows the progress.

        Raises `NotSpoken` if the server does not know the API of the call.
        """

    async def close(self) -> None: ...
