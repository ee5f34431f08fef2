"""Turn failures into what a client may see: only mlserve's own errors leave the server.

Their gRPC codes and HTTP statuses are in `mlserve.wire.status`.
"""

from __future__ import annotations

import logging

from mlserve.errors import InferenceFailed, MlserveError, escaped

_log = logging.getLogger(__name__)

_MAX_ERROR_CHARACTERS = 1024
_MAX_HINT_CHARACTERS = 300


def as_known_error(error: BaseException) -> MlserveError:
    """Return our own errors as they are; log any other and return a general one instead.

    Ours lose their traceback: its frames hold the request, and as part of a reference cycle a
    refused image of 60 MB would stay in memory until the next collection.
    """
    if isinstance(error, MlserveError):
        return without_frames(error)
    _log.error("an unexpected error", exc_info=error)
    return InferenceFailed("internal error; the server's log has the details")


def without_frames(error: MlserveError) -> MlserveError:
    """Return the error without traceback and causes, so that it can outlive its request."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def as_exception(error: BaseException) -> Exception:
    """Return the error, or log one that no `except Exception` would catch as InferenceFailed.

    This covers KeyboardInterrupt and SystemExit raised by a model's code: signals never reach a
    worker's thread, so there they do not mean that the process should stop.
    """
    return error if isinstance(error, Exception) else as_known_error(error)


def error_text(error: MlserveError) -> str:
    """Return the message on one line, cut where TensorFlow Serving cuts its own.

    It may hold what a caller sent, so it is made safe for logs and terminals.
    """
    text = error.message
    cut = text[:_MAX_ERROR_CHARACTERS]
    return escaped(text if cut == text else f"{cut}...TRUNCATED")


def hint_text(hint: str) -> str:
    """Return a hint as a header may hold it: ASCII on one line, and not long."""
    cut = escaped(hint)[:_MAX_HINT_CHARACTERS]
    return cut.encode("ascii", "backslashreplace").decode("ascii")
