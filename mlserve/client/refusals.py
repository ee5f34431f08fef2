"""Errors for a server's refusal or silence: every remote error is worded here."""

from __future__ import annotations

import math
import re

from mlserve import errors
from mlserve.client.endpoint import Endpoint
from mlserve.client.proxies import of_a_proxy
from mlserve.deadline import Deadline, in_words
from mlserve.errors import readable
from mlserve.images import SCORE_PROBLEM

_QUEUE_EXPIRY = re.compile(
    r"timeout exceeded while waiting in batching queue|^request timeout expired$", re.IGNORECASE
)
_OUR_DEADLINE = "no answer within "
"""Start of an mlserve server's message when the time that the client gave it ran out."""
_QUEUE_FULL = re.compile(r"exceeds maximum queue size", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"^request for unknown model.* is not found|^model (with name )?\S+ (with version \S+ )?"
    r"(not found|does not exist)|'kserve\.errors\.ModelNotFound'"
    r"|^model not found: |^model version: \S+ does not exist",
    re.IGNORECASE,
)
_NOT_YET = re.compile(
    r"request for unknown model.* has no available versions|\bmodel .{1,200} is not ready\b"
    r"|^model .{1,200} has no worker to serve",
    re.IGNORECASE,
)
"""How Triton (loading or draining), MLServer and KServe say "not ready", in any status.

So does TorchServe without a worker, as while the only one starts again.
"""
_HANDLER_FAILED = re.compile(
    r"^(Prediction failed|Invalid model predict output|number of batch response mismatched"
    r"|Unsupported model output data type\.)$"
)
"""TorchServe's messages, as if it were unavailable, for a handler that raised or answered wrongly.

They are those of ts/service.py and ts/protocol/otf_message_handler.py of TorchServe 0.12.
"""
_NO_MEMORY = re.compile(r"^Out of resources$")
"""TorchServe's message, in HTTP 507, for a model that ran out of memory."""
_JAVA_CLASS = re.compile(r"\n(?:org\.pytorch\.[\w.$]+|\w+Exception\.\(\))$")
"""The exception that TorchServe names after its message."""
_TOO_LARGE = re.compile(r"(received|sent) message larger than max", re.IGNORECASE)
_SIGNATURE = re.compile(
    r"signature|named input|input tensor|input alias|unknown input|no input|expected type"
    r"|expects arg|but string is provided|expecting an object",
    re.IGNORECASE,
)
_NO_BINARY = re.compile(r"HTTP 4(15|22)|json|utf-?8|unicode|decode|codec", re.IGNORECASE)
_TRACEBACK = re.compile(r"^[ \t]*Traceback \(most recent call last\):$", re.MULTILINE)
_EXCEPTION = re.compile(r"^[\w.]*\w(?:: .*)?$", re.MULTILINE)
_WHAT_IT_SPEAKS = (
    "is this a model server? it must speak TensorFlow Serving's API, version 1, the Open Inference "
    "Protocol, version 2, or TorchServe's API"
)
_RAISE_REQUEST_LIMIT = (
    "send a smaller file, or raise the server's limit for received messages "
    "(mlserve up: --max-request-bytes; MLServer: grpc_max_message_length)"
)


class NotSpoken(Exception):
    """Raised for an answer of a server that does not speak the API it was asked in.

    `refusal` is the error for the user if there is no other API left to try.
    """

    def __init__(self, refusal: errors.MlserveError) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Unreadable(ValueError):
    """Raised by an adapter for an answer that is not `what` it must be; `came` came instead."""

    def __init__(self, what: str, came: str, hint: str = _WHAT_IT_SPEAKS) -> None:
        super().__init__(f"not {what}: {readable(came)}")
        self.hint = hint


class ConnectionLost(errors.Unavailable):
    """The connection was lost during the request; in JSON it is `unavailable`."""

    @property
    def kind(self) -> str:
        return "unavailable"


def refusal(
    kind: type[errors.MlserveError],
    text: str,
    endpoint: Endpoint,
    deadline: Deadline,
    *,
    retry_after: float | None = None,
    price: float | None = None,
    sender: str = "",
) -> errors.MlserveError:
    """Return the error of that kind for a server's answer, including the server's message.

    `price` is that of a refusal (`Overloaded.price`). `sender` is the program that the answer names
    as its sender: a proxy's own answer names it.
    """
    text = readable(_JAVA_CLASS.sub("", without_traceback(text))) or "it gave no reason"
    if issubclass(kind, errors.Unavailable | errors.DeadlineExceeded):
        from_proxy = of_a_proxy(text, readable(sender), endpoint, deadline)
        if from_proxy is not None:
            return from_proxy
    kind = _kind_by_words(text, kind)
    if issubclass(kind, errors.Overloaded):
        return _no_room(text, endpoint, retry_after, price)
    if issubclass(kind, errors.DeadlineExceeded):
        return _gave_up(text, endpoint, deadline)
    message, hint = _WORDS[next(known for known in _WORDS if issubclass(kind, known))]
    error = kind(message.format(endpoint=endpoint, text=text), hint=hint)
    if isinstance(error, errors.Transient):
        error.retry_after = retry_after
    return error


def _kind_by_words(text: str, kind: type[errors.MlserveError]) -> type[errors.MlserveError]:
    """Return the kind, corrected where a known server's message says more than its code.

    TensorFlow Serving and Triton have no code for requests that expired in their queue, and a
    failed check in a graph is always an invalid argument.
    """
    if SCORE_PROBLEM.search(text) or _HANDLER_FAILED.search(text):
        return errors.InferenceFailed
    if _NOT_YET.search(text):
        return errors.Unavailable
    if _QUEUE_EXPIRY.search(text):
        return errors.DeadlineExceeded
    if _QUEUE_FULL.search(text) or _NO_MEMORY.search(text):
        return errors.Overloaded
    return errors.NotFound if _NO_MODEL.search(text) else kind


def _no_room(
    text: str, endpoint: Endpoint, retry_after: float | None, price: float | None
) -> errors.MlserveError:
    size = _TOO_LARGE.search(text)
    if size and size[1].lower() == "received":
        return errors.InputTooLarge(
            f"the server at {endpoint} does not take a request of this size: {text}",
            hint=_RAISE_REQUEST_LIMIT,
        )
    if size:
        return errors.InferenceFailed(
            f"the server at {endpoint} may not send an answer of this size: {text}",
            hint="raise the server's limit for sent messages",
        )
    is_told = retry_after is not None and math.isfinite(retry_after)
    when = f"in {retry_after:g} s" if is_told else "later"
    error = errors.Overloaded(
        f"the server at {endpoint} has no room for the request: {text}",
        hint=f"try again {when}, or with fewer requests at once",
        retry_after=retry_after,
    )
    error.price = price
    return error


def _gave_up(text: str, endpoint: Endpoint, deadline: Deadline) -> errors.DeadlineExceeded:
    left = deadline.remaining()
    ours = deadline.exceeded(f"waiting for the answer of {endpoint}")
    if left <= 0:
        return ours
    if text.startswith(_OUR_DEADLINE):
        return errors.DeadlineExceeded(
            f"no answer within {in_words(deadline.timeout)}: the server at {endpoint} got what was "
            f"left of it, and says: {text}",
            hint=ours.hint,
        )
    return errors.DeadlineExceeded(
        f"the server at {endpoint} gave up {in_words(left)} before the deadline of "
        f"{in_words(deadline.timeout)}: {text}",
        hint="this is a limit of the server, not {timeout} "
        "(TensorFlow Serving: --rest_api_timeout_in_ms; Triton: the model's queue policy)",
    )


_WORDS: dict[type[errors.MlserveError], tuple[str, str | None]] = {
    # Most specific first: the first matching class is used.
    errors.NotAnImage: (
        "the server at {endpoint} refused the image: {text}",
        "give a JPEG or PNG file that opens elsewhere",
    ),
    errors.InputTooLarge: (
        "the server at {endpoint} does not take a request of this size: {text}",
        _RAISE_REQUEST_LIMIT,
    ),
    errors.AccessDenied: (
        "the server at {endpoint} denied access: {text}",
        "give the server's token with {token_file FILE}",
    ),
    errors.NotFound: (
        "the server at {endpoint} does not have what was asked for: {text}",
        "name the model that it serves with {model NAME} (and {version N})",
    ),
    errors.InvalidInput: (
        "the server at {endpoint} refused the request: {text}",
        "see what the model takes with mlserve metadata",
    ),
    errors.UsageError: (
        "the server at {endpoint} does not allow the request: {text}",
        "is this a model server, is the request allowed there, and is {api} what it speaks?",
    ),
    errors.Unavailable: (
        "the server at {endpoint} is not ready: {text}",
        "see the state of the model with mlserve status, and mlserve logs",
    ),
    errors.MlserveError: (
        "the server at {endpoint} failed: {text}",
        "see why with mlserve logs (or the log of that server)",
    ),
}


def without_traceback(text: str) -> str:
    """Return the text with any traceback reduced to the exception at its end."""
    found = _TRACEBACK.search(text)
    if found is None:
        return text
    exceptions = _EXCEPTION.findall(text, found.end())
    return text[: found.start()] + (exceptions[-1] if exceptions else text[found.end() :])


def seconds(text: str | bytes | None) -> float | None:
    """Return seconds as a server writes them; None if absent, negative, or a date."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def no_server(endpoint: Endpoint, why: str, or_else: str = "") -> errors.Unavailable:
    """Return the error if nothing answers there; `or_else` is one more thing to try."""
    other = "rest" if endpoint.protocol == "grpc" else "grpc"
    hints = [
        "see what runs with mlserve ps, start a server with mlserve up",
        f"for a server's other port: {{protocol {other}}}",
        or_else,
    ]
    return errors.Unavailable(
        f"no server answers at {endpoint} ({readable(why)})", hint="; ".join(filter(None, hints))
    )


def went_away(endpoint: Endpoint, why: str, or_else: str = "") -> ConnectionLost:
    """Return the error for a lost connection; `or_else` is one more thing to try."""
    hints = ["see whether it still runs with mlserve ps, and why not with mlserve logs", or_else]
    return ConnectionLost(
        f"the server at {endpoint} went away during the request ({readable(why)})",
        hint="; ".join(filter(None, hints)),
    )


def answer_too_large(endpoint: Endpoint, limit: int) -> errors.InferenceFailed:
    """Return the error for an answer that exceeds the client's limit."""
    return errors.InferenceFailed(
        f"the answer of {endpoint} has more than the {limit} bytes that this client reads",
        hint="raise the limit with {max_answer_bytes}",
    )


def not_an_answer(endpoint: Endpoint, error: Unreadable) -> errors.InferenceFailed:
    """Return the error for an answer that violates the protocol."""
    return errors.InferenceFailed(f"the answer of {endpoint} is {error}", hint=error.hint)


def refuses_signature(error: errors.MlserveError) -> bool:
    """Return whether a server refused the signature or the input name rather than the image."""
    is_refusal = type(error) in (errors.InvalidInput, errors.NotFound)
    return is_refusal and _SIGNATURE.search(error.message) is not None


def tells_not_ready(error: errors.MlserveError) -> bool:
    """Return whether a server that answers says that this model is not ready."""
    return type(error) is errors.Unavailable and _NOT_YET.search(error.message) is not None


def refuses_binary(error: errors.MlserveError, *, is_declared: bool) -> bool:
    """Return whether a server could not read a request with binary data after its JSON.

    `is_declared`: it says that it can. One that does not say may fail without a clear reason.
    """
    if type(error) is errors.InferenceFailed and not is_declared:
        return True
    is_refusal = type(error) in (errors.InvalidInput, errors.InferenceFailed)
    return is_refusal and _NO_BINARY.search(error.message) is not None
