"""The errors of mlserve, each with a hint and an exit code.

    MlserveError
    |- UsageError            2    bad option, bad input, unknown backend or artifact
    |  |- InvalidInput       2    the server or the client refused this input
    |  |  |- NotAnImage      2    the bytes are not a JPEG or PNG, or are damaged
    |  |  `- InputTooLarge   2    more bytes or pixels than the limit
    |  |- NotFound           2    no such model, version, signature, backend or server
    |  |- AccessDenied       2    a token or a certificate is missing or wrong
    |  |  `- NotAllowed      2    the server forbids this to the caller
    |  |- NotYet             2    the server does not have what the call needs yet
    |  `- NotSupported       2    the protocol has this call, but mlserve does not serve it
    |- PluginError           3    a plugin or one of its dependencies is missing or broken
    |- ExportError           4    the model could not be exported
    |- BuildFailed           4    the container image could not be built
    |- InferenceFailed       6    the server accepted the request and failed
    |- Transient                  may pass by itself: the client asks again
    |  |- Unavailable        5    no server, not ready, or gone
    |  |  `- ModelLoadFailed 5    the server cannot load this version of the model
    |  `- Overloaded         7    the server has no room for the request
    `- DeadlineExceeded    124    no answer in time (the code of coreutils' `timeout`)

What each looks like on the wire is in `mlserve.wire.status`. docs/reference/errors.md is made
from the docstrings here: the first paragraph says what happened, the second what to do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar, Self

from mlserve.hints import said

LONGEST_NAME = 200
"""How much of a caller's text a message repeats, in characters: far more than real names have."""
_QUOTED = 600
_LONGEST_ANSWER = 1000
_LONGEST = 4000
_MOST_LOOKED_AT = 2**16
"""How many characters at each end of a text are searched for its first and last line."""


def bounded(text: str, longest: int = _QUOTED) -> str:
    """Return foreign text on one line of about `longest` characters, for use in a message.

    A long text keeps its first and last line, which say what happened and why, each cut in the
    middle. Terminal control characters become escapes.
    """
    if len(text) > 2 * _MOST_LOOKED_AT:
        text = f"{text[:_MOST_LOOKED_AT]}\n{text[-_MOST_LOOKED_AT:]}"
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    whole = " ".join(lines)
    if len(whole) > longest and len(lines) > 1:
        whole = f"{_cut(lines[0], longest // 2)} ... {_cut(lines[-1], longest // 2)}"
    whole = _cut(whole, longest + len(" ... "))
    return escaped(whole)


def readable(text: str) -> str:
    """Return a server's text, or a name, on one line of about 1000 characters."""
    return bounded(text, _LONGEST_ANSWER)


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    """Return the beginning of a caller's text on one line, for use in a message."""
    return escaped(text if len(text) <= longest else f"{text[:longest]}...")


def counted(count: int, what: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def either(words: Sequence[str], conjunction: str = "or") -> str:
    """Return `a`, `a or b`, `a, b or c`, for one word or more."""
    return f" {conjunction} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def first_of(names: Sequence[str], most: int, separator: str = ", ", quote: str = "") -> str:
    """Return the first names of a caller, each cut, and say how many more there are."""
    shown = separator.join(f"{quote}{shortened(name)}{quote}" for name in names[:most])
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown


def escaped(text: str, keeping: str = "") -> str:
    """Escape characters that a terminal or a log would act on, and those that cannot be encoded.

    Characters in `keeping`, such as a newline, stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keeping else char.encode("unicode_escape").decode()
        for char in text
    )


def as_utf8(name: str) -> str:
    """Return a file name encodable as UTF-8: bytes that are not UTF-8 become escapes."""
    return name.encode(errors="backslashreplace").decode()


def reason_of(error: BaseException) -> str:
    """Return an exception's class and text for a message, shortened: `KeyError: 'name'`.

    The class is omitted for mlserve's own errors.
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
    """What the process of a command ends with; `meaning` says what happened."""

    meaning: str

    OK = 0, "the command did what it was asked to"
    UNEXPECTED = 1, "a bug in mlserve; the traceback is shown"
    USAGE = 2, "the call or its input is wrong, what it names does not exist, or access is denied"
    PLUGIN = 3, "a plugin or one of its packages is missing"
    EXPORT = 4, "the export or the build failed; nothing was left behind"
    UNAVAILABLE = 5, "there is no server, or it is not ready"
    INFERENCE = 6, "the server accepted the request and failed"
    OVERLOADED = 7, "the server is overloaded"
    DIFFERENT = (
        8,
        "`compare`, `certify` or a `verify` found a difference, `bench` or `replay` a missed level",
    )
    REJECTED = 10, "`gate` rejects the part"
    ASK = 11, "`gate` leaves the part to a human"
    NO_AUDIT = 12, "`gate` stopped, as its audit file cannot be written or was tampered with"
    ALARM = 13, "`gate` stopped, as the scores no longer come as they did"
    DEADLINE = 124, "no answer in time"
    INTERRUPTED = 130, "interrupted with Ctrl-C"

    def __new__(cls, code: int, meaning: str) -> Self:
        """Make a member, which is an int, with its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class MlserveError(Exception):
    """Base of every error that mlserve raises on purpose.

    `message` says what is wrong and names the value; `hint` is the next step to take, in words for
    Python or for the command line (`mlserve.hints`). `details` is what else there is to know, as
    data: a call to a server tells its attempts and ids there.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = _cut(message, _LONGEST)  # it may contain anything
        super().__init__(message)
        self.message = message
        self._hint = hint
        self.details: dict[str, Any] = {}

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), self.args, self.__dict__)

    @property
    def hint(self) -> str | None:
        """Return the next step to take, if there is one."""
        return None if self._hint is None else said(self._hint)

    @hint.setter
    def hint(self, hint: str | None) -> None:
        self._hint = hint

    @property
    def kind(self) -> str:
        """Return the error's stable name in JSON, such as `deadline_exceeded`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def to_json(self) -> dict[str, Any]:
        """Return the error as data: its kind, message, hint, exit code and details."""
        return {
            "kind": self.kind,
            "message": self.message,
            "hint": self.hint,
            "exit_code": int(self.exit_code),
            **self.details,
        }


def _remade(kind: type[MlserveError], args: tuple[Any, ...], state: dict[str, Any]) -> MlserveError:
    """Make an error again in another process, whatever arguments its class takes."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(MlserveError):
    """Something in the call itself is wrong; the same call will fail again.

    Change what the message names, as the hint says.
    """

    exit_code = ExitCode.USAGE


class InvalidInput(UsageError):
    """The input does not fit the model's signature.

    See what the model takes with `mlserve metadata`.
    """


class NotAnImage(InvalidInput):
    """The bytes are not a whole JPEG or PNG file.

    Convert the image to JPEG or PNG. If it is one, the file is damaged: get it again.
    """


class InputTooLarge(InvalidInput):
    """The input has more bytes or pixels than the server takes.

    Send a smaller file, or fewer images in one request, or raise the limit that the message names.
    """


class NotFound(UsageError):
    """There is no model, version, signature, backend, artifact or server of that name.

    See what there is with `mlserve status`, `mlserve metadata`, `mlserve ps` or `mlserve plugins`.
    """


class AccessDenied(UsageError):
    """The server does not answer this caller: a token or a certificate is missing or wrong.

    Give the server's token with `--token-file`, and a certificate with `--tls-cert` and
    `--tls-key`.
    """


class NotAllowed(AccessDenied):
    """The server is set up to refuse this to a caller like this one.

    Change `--model-control` of the server, or call it from where it allows the request.
    """


class NotYet(UsageError):
    """The call is right, but needs something that the server does not have yet.

    Call again once the server has it, such as the version that a label is for.
    """


class NotSupported(UsageError):
    """The protocol has this call, but mlserve does not serve it.

    Use a method that the server has; the message names the one that it lacks.
    """


class PluginError(MlserveError):
    """A plugin, or a package that it needs, is missing or broken.

    `mlserve plugins` shows what is missing and the command that installs it.
    """

    exit_code = ExitCode.PLUGIN


class ExportError(MlserveError):
    """The model could not be exported; nothing was left behind.

    The message says what is wrong with the model or its files, and the hint which option helps.
    """

    exit_code = ExitCode.EXPORT


class BuildFailed(MlserveError):
    """The container image could not be built or pulled.

    Read the builder's log, which is printed before the error.
    """

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
    """There is no server at the endpoint, or it is not ready.

    See what runs with `mlserve ps`, and why a server does not become ready with `mlserve status`
    and `mlserve logs`. Start one with `mlserve up`.
    """

    exit_code = ExitCode.UNAVAILABLE


class ModelLoadFailed(Unavailable):
    """The runtime cannot load the files of this model version.

    The message names the file; export the model again, or serve another version.
    """


class InferenceFailed(MlserveError):
    """The server accepted the request and failed to answer it.

    See why in the server's log: `mlserve logs`.
    """

    exit_code = ExitCode.INFERENCE


class Overloaded(Transient):
    """The server has no room for the request.

    Call again after the time that the server names, or send fewer requests at once.
    """

    exit_code = ExitCode.OVERLOADED
    price: float | None = None
    """The share of such calls that the server refuses now, 0 to 1; None if it does not say."""


class DeadlineExceeded(MlserveError):
    """The deadline passed before the answer was there, or the server saw that it would.

    Allow more time with `--timeout`. `mlserve status` shows how busy the server is.
    """

    exit_code = ExitCode.DEADLINE
