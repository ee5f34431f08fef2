"""Find the model, version and signature of a request, with TensorFlow Serving's messages.

Third-party readiness loops look for these texts, some for the whole text, so nothing is added to
the messages about a model. They are from server_core.cc (names and labels), manager.h (`Latest`,
`Specific`), get_model_status_impl.cc, http_rest_api_util.cc (versions in a path), and, for a
signature, predict_util.cc over gRPC and http_rest_api_handler.cc over REST.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from mlserve.errors import InvalidInput, NotFound, NotYet, bounded, shortened
from mlserve.server.models.loading import Served
from mlserve.server.models.versions import NotServed
from mlserve.server.tensors import find_signature, known_signatures
from mlserve.tensors import DEFAULT_SIGNATURE, Signature
from mlserve.wire.proto.serving_pb2 import ModelSpec

_LARGEST = 2**63 - 1
_MOST_DIGITS = len(str(_LARGEST))


class _Request(Protocol):
    """A request that names a model."""

    @property
    def model_spec(self) -> ModelSpec: ...

    def HasField(self, name: str) -> bool: ...  # noqa: N802 - it is protobuf's


def spec_of(request: _Request) -> ModelSpec:
    """Return the request's model spec. Raises InvalidInput if it has none."""
    if not request.HasField("model_spec"):
        raise InvalidInput("Missing ModelSpec", hint="name the model in model_spec.name")
    return request.model_spec


def named_spec_of(request: _Request) -> ModelSpec:
    """Like `spec_of`, for methods that require the model's name. Raises InvalidInput without it."""
    spec = spec_of(request)
    if not spec.name:
        raise InvalidInput(
            "ModelSpec has no name specified.", hint="name the model in model_spec.name"
        )
    return spec


def spec_served(served: Served, signature: str) -> ModelSpec:
    """Return the model spec of an answer: which version gave it, with which signature."""
    spec = ModelSpec(name=served.model, signature_name=signature)
    spec.version.value = served.version
    return spec


@contextmanager
def telling_of_versions() -> Iterator[None]:
    """Report an unknown version of a model in TensorFlow Serving's words for a status request."""
    try:
        yield
    except NotServed as error:
        raise NotFound(
            f"Could not find any versions of model {shortened(error.model)}", hint=error.message
        ) from error


@contextmanager
def telling_of_servables() -> Iterator[None]:
    """Report a model or version that is not served in TensorFlow Serving's words."""
    try:
        yield
    except NotServed as error:
        model = shortened(error.model)
        asked = f"Latest({model})"
        if error.version is not None:
            asked = f"Specific({model}, {error.version})"
        raise NotFound(f"Servable not found for request: {asked}", hint=error.message) from error


def signature_over_grpc(signatures: Mapping[str, Signature], name: str) -> Signature:
    """Return the named signature, or the default one. Raises NotYet (FAILED_PRECONDITION)."""
    try:
        return find_signature(signatures, name)
    except NotFound as error:
        wanted = name or DEFAULT_SIGNATURE
        known = known_signatures(signatures, wanted)
        raise NotYet(
            f'Serving signature key "{shortened(wanted)}" not found. {known[0].upper()}{known[1:]}',
            hint=error.hint,
        ) from error


def signature_over_rest(signatures: Mapping[str, Signature], name: str) -> Signature:
    """Return the named signature, or the default one. Raises InvalidInput."""
    try:
        return find_signature(signatures, name)
    except NotFound as error:  # its message is already the right one
        raise InvalidInput(error.message, hint=error.hint) from error


def version_number(digits: str) -> int:
    """Return the version that a path names. Raises InvalidInput for more than 2**63 - 1."""
    short = digits.lstrip("0") or "0"
    if len(short) > _MOST_DIGITS or int(short) > _LARGEST:
        raise InvalidInput(
            f"Failed to convert version: {bounded(digits, 40)} to numeric.",
            hint=f"a version is a number up to {_LARGEST}",
        )
    return int(short)
