"""What a client is told when something fails: nothing that is not mlserve's own error gets out."""

from __future__ import annotations

import logging

from mlserve.errors import InferenceFailed, MlserveError, escaped

_log = logging.getLogger(__name__)

_MAX_ERROR_CHARACTERS = 1024


def as_known_error(error: BaseException) -> MlserveError:
    """The error itself if it is one of ours; else it is logged and a general one stands for it.

    Ours come back without their traceback, whose frames hold the request: as a cycle, a refused
    image of 60 MB would stay in memory until the next collection.
    """
    if isinstance(error, MlserveError):
        return without_frames(error)
    _log.error("an unexpected error", exc_info=error)
    return InferenceFailed("internal error; the server's log has the details")


def without_frames(error: MlserveError) -> MlserveError:
    """The error without its traceback and causes, for one that is kept longer than its request."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def as_exception(error: BaseException) -> Exception:
    """The error itself, or InferenceFailed for what no `except Exception` would see; it is logged.

    KeyboardInterrupt and SystemExit of a model's code are meant here too: a worker's thread is not
    the one that a signal reaches.
    """
    return error if isinstance(error, Exception) else as_known_error(error)


def error_text(error: MlserveError) -> str:
    """The error's message on one line, cut where TensorFlow Serving cuts its own.

    It may hold what a caller sent: no log or terminal is to act on that.
    """
    text = error.message
    cut = text[:_MAX_ERROR_CHARACTERS]
    return escaped(text if cut == text else f"{cut}...TRUNCATED")
