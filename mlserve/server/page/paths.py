"""Where the pages are on the REST port, or below the place where the server is mounted.

The token is asked for by what the pages ask, not by the pages themselves: a browser that follows a
link cannot send one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from mlserve.server.listen.http import check_method
from mlserve.server.listen.routes import Operation
from mlserve.server.message import Request, Response
from mlserve.server.openapi import PAGES
from mlserve.server.page.documents import document
from mlserve.server.request import Purpose


class PeoplePages:
    """The page at `/` and the one at `/docs`."""

    def match(self, path: str) -> Operation | None:
        """Return the operation for a page, or for the empty path of a mounted server."""
        respond = _RESPONSES.get(path)
        if respond is None:
            return None
        return Operation("", Purpose.METADATA, respond, needs_token=False)


async def _show(name: str, request: Request) -> Response:
    check_method(request, "GET")
    found = document(name)
    return Response(found.body, headers=found.headers, media_type="text/html; charset=utf-8")


async def _go_below(request: Request) -> Response:
    """Send a browser from `/ml` to `/ml/`: what the page asks for is relative to that."""
    check_method(request, "GET")
    last = request.path.rpartition("/")[2]
    return Response(status=308, headers={"location": f"./{last}/" if last else "./"})


_FILES = ("page.html", "docs.html")
_RESPONSES: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
    "": _go_below,
    **{path: partial(_show, file) for path, file in zip(PAGES, _FILES, strict=True)},
}
