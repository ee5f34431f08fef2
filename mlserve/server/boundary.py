"""What a client is told when something fails: nothing that is not mlserve's own error gets out."""

from __future__ import annotations

import logging

from mlserve.errors import InferenceFailed, MlserveError

_log = logging.getLogger(__name__)

_MAX_ERROR_CHARACTERS = 1024


def as_known_error(error: BaseException) -> MlserveError:
    """The error itself if it is one of ours; else it is logged and a general one stands for it.

    Ours come back without their traceback, whose frames hold the request: as a cycle, a refused
    image of 60 MB would stay in memory until the next collection.
    """
    if isinstance(error, MlserveError):
        return error.with_traceback(None)
    _log.error("an unexpected error", exc_info=error)
    return InferenceFailed("internal error; the server's log has the details")


def error_text(error: MlserveError) -> str:
    """The error's message, cut where TensorFlow Serving cuts its own."""
    text = error.message
    cut = text[:_MAX_ERROR_CHARACTERS]
    return text if cut == text else f"{cut}...TRUNCATED"
