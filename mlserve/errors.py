"""The errors of mlserve, each with a hint and an exit code.

    MlserveError
    |- UsageError            2    bad option, bad input, unknown backend or artifact
    |  |- InvalidInput       2    the server or the client refused this input
    |  |  |- NotAnImage      2    the bytes are no JPEG or PNG, or a damaged one
    |  |  `- InputTooLarge   2    more bytes or pixels than the limit
    |  |- NotFound           2    no such model, version, signature, backend or server
    |  |- AccessDenied       2    the server wants a token or a certificate, or other ones
    |  |  `- NotAllowed      2    the server does this for nobody who may ask it now
    |  |- NotYet             2    what it needs is not there yet
    |  `- NotSupported       2    the protocol has this call, and mlserve does not
    |- PluginError           3    a plugin or one of its dependencies is missing or broken
    |- ExportError           4    the model could not be exported
    |- BuildFailed           4    the container image could not be built
    |- InferenceFailed       6    the server accepted the request and failed
    |- Transient                  what may pass by itself: the client asks again
    |  |- Unavailable        5    no server, not ready, or gone
    |  |  `- ModelLoadFailed 5    the server cannot load this version of the model
    |  `- Overloaded         7    the server refused the request for want of room
    `- DeadlineExceeded    124    no answer in time (the code of coreutils' `timeout`)

What each looks like on the wire is in `mlserve.wire.errors`.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Any, ClassVar

from mlserve.hints import said

LONGEST_NAME = 200
"""Characters of a caller's text that a message repeats: far more than any real name has."""
_QUOTED = 600
_LONGEST = 4000
_MOST_LOOKED_AT = 2**16
"""Characters of each end of a text in which its first and its last line are looked for."""


def bounded(text: str, longest: int = _QUOTED) -> str:
    """Text of somebody else on one line of about `longest` characters, for a message of ours.

    A long one keeps its first and its last line, which say what happened and why, each cut in the
    middle. What a terminal would act on becomes an escape.
    """
    if len(text) > 2 * _MOST_LOOKED_AT:
        text = f"{text[:_MOST_LOOKED_AT]}\n{text[-_MOST_LOOKED_AT:]}"
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    whole = " ".join(lines)
    if len(whole) > longest and len(lines) > 1:
        whole = f"{_cut(lines[0], longest // 2)} ... {_cut(lines[-1], longest // 2)}"
    whole = _cut(whole, longest + len(" ... "))
    return escaped(whole)


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    """A caller's text for a message of ours: its beginning, on one line."""
    return escaped(text if len(text) <= longest else f"{text[:longest]}...")


def escaped(text: str, keeping: str = "") -> str:
    """The text with an escape for what a terminal or a log would act on, or cannot be encoded.

    Of those characters, `keeping` stay as they are: a newline, say.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keeping else char.encode("unicode_escape").decode()
        for char in text
    )


def reason_of(error: BaseException) -> str:
    """What an exception says, for a message of ours: `KeyError: 'name'`, however long its text is.

    The class is left out of an error of mlserve's own.
    """
    if isinstance(error, MlserveError):
        return error.message
    name, text = type(error).__name__, bounded(str(error))
    return text if text.startswith(name) else f"{name}: {text}".removesuffix(": ")


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    kept = (longest - len(" ... ")) // 2
    return f"{text[:kept]} ... {text[-kept:]}"


class ExitCode(IntEnum):
    """What the process of a command ends with."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    PLUGIN = 3
    EXPORT = 4
    UNAVAILABLE = 5
    INFERENCE = 6
    OVERLOADED = 7
    DIFFERENT = 8
    DEADLINE = 124
    INTERRUPTED = 130


class MlserveError(Exception):
    """Base of every error that mlserve raises on purpose.

    `message` says what is wrong and names the value; `hint` is the next step to take, in words for
    Python or for the command line (`mlserve.hints`). `details` is what else there is to know, as
    data: a call to a server tells its attempts and ids there.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = _cut(message, _LONGEST)  # whatever got into it
        super().__init__(message)
        self.message = message
        self._hint = hint
        self.details: dict[str, Any] = {}

    def __str__(self) -> str:
        return self.message

    @property
    def hint(self) -> str | None:
        """The next step to take, if there is one."""
        return None if self._hint is None else said(self._hint)

    @hint.setter
    def hint(self, hint: str | None) -> None:
        self._hint = hint

    @property
    def kind(self) -> str:
        """The error's stable name in JSON, such as `deadline_exceeded`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()


class UsageError(MlserveError):
    """Something in the call itself is wrong; the same call will fail again."""

    exit_code = ExitCode.USAGE


class InvalidInput(UsageError):
    """The input does not fit the model's signature."""


class NotAnImage(InvalidInput):
    """The bytes are not a whole JPEG or PNG file."""


class InputTooLarge(InvalidInput):
    """The input has more bytes or pixels than the server takes."""


class NotFound(UsageError):
    """No model, version, signature, backend, artifact or server of that name."""


class AccessDenied(UsageError):
    """The server does not answer this caller: a token or a certificate is missing or wrong."""


class NotAllowed(AccessDenied):
    """The server is set up not to do this for a caller like this one."""


class NotYet(UsageError):
    """The call is right, but needs something that the server does not have yet."""


class NotSupported(UsageError):
    """The protocol knows what is asked for, and mlserve does not do it."""


class PluginError(MlserveError):
    """A plugin, or a package that it needs, is missing or broken."""

    exit_code = ExitCode.PLUGIN


class ExportError(MlserveError):
    """The model could not be exported; nothing was left behind."""

    exit_code = ExitCode.EXPORT


class BuildFailed(MlserveError):
    """The container image could not be built, or not be had from where it is published."""

    exit_code = ExitCode.EXPORT


class Transient(MlserveError):
    """What may pass by itself, so that the same call may succeed later.

    `retry_after` (seconds) says when to come back; infinity: not at all; None: nobody knows.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class Unavailable(Transient):
    """There is no server at the endpoint, or it is not ready."""

    exit_code = ExitCode.UNAVAILABLE


class ModelLoadFailed(Unavailable):
    """The files of a model version are not what its runtime can load."""


class InferenceFailed(MlserveError):
    """The server took the request and failed to answer it."""

    exit_code = ExitCode.INFERENCE


class Overloaded(Transient):
    """The server has no room for the request."""

    exit_code = ExitCode.OVERLOADED


class DeadlineExceeded(MlserveError):
    """The deadline passed before the answer was there."""

    exit_code = ExitCode.DEADLINE
