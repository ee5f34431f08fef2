"""The page of a server for people: who has one, and `mlserve up --open`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlserve.cli.output import note
from mlserve.errors import UsageError
from mlserve.options import flag_of
from mlserve.settings import DOCKER, EMBEDDED

if TYPE_CHECKING:
    from mlserve.launch.records import ServerRecord
    from mlserve.launch.up import UpRequest

OPEN = "--open"


def require_page(request: UpRequest) -> None:
    """Raise UsageError for a server that has no page."""
    if not _is_mlserve(request):
        raise UsageError(
            f"{OPEN} opens the page of mlserve's own server, and this one would be the runtime's",
            hint=f"leave {OPEN} out, or use --launcher {EMBEDDED}",
        )
    if not request.serving.settings.page:
        raise UsageError(
            f"{OPEN} opens the server's page, which it is to have none of ({flag_of('no_page')})",
            hint="leave one of the two out",
        )


def has_page(request: UpRequest) -> bool:
    """Return whether the server has a page."""
    return request.serving.settings.page and _is_mlserve(request)


def open_page(record: ServerRecord) -> None:
    """Open the page in the user's browser, or say where it is if none can be started."""
    import webbrowser  # what few calls need

    address = address_of(record)
    with _holding_no_pipe():
        is_opened = webbrowser.open(address)
    if not is_opened:
        note(f"no browser could be started: the page is at {address}")
    if record.serving.settings.token_file is not None:
        note(f"the page asks for a token: one of {record.serving.settings.token_file}")


@contextmanager
def _holding_no_pipe() -> Iterator[None]:
    """Give what is started in the block no pipe or file of ours to print to.

    A browser lives on: who reads this command's output to its end would wait for the browser's.
    """
    kept = {}
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if stream is not None and not os.isatty(number):
            stream.flush()
            kept[number] = os.dup(number)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
    try:
        yield
    finally:
        for number, own in kept.items():
            os.dup2(own, number)
            os.close(own)


def address_of(record: ServerRecord) -> str:
    """Return the address of the page."""
    return f"{record.rest_endpoint}/"


def _is_mlserve(request: UpRequest) -> bool:
    """Return whether mlserve's own server answers, in whatever process or container."""
    if request.launcher != DOCKER:
        return request.traits.is_own
    from mlserve.launch.docker.plan import server_spec

    return server_spec(request.backend, request.serving) is None
