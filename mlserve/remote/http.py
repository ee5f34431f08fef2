"""Files from HTTP servers: asked for with conditions, resumed after a break."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from netrc import NetrcParseError
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from mlserve.errors import AccessDenied, ExportError, MlserveError, NotFound, UsageError, bounded
from mlserve.remote.address import Address, safe_name
from mlserve.remote.upstream import (
    CONNECT_SECONDS,
    SILENT_SECONDS,
    Found,
    Partial,
    Upstream,
    downloading,
    finish,
    is_outage,
    size_of,
    unreachable,
)
from mlserve.sources import Progress

_MOST_REDIRECTS = 10
_TRIES = 3
"""How often an answer may break off without more bytes than before."""
_ETAG, _MODIFIED = "ETag ", "Last-Modified "
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_REFUSED = {401, 403, 407}
_ABSENT = {404, 410}


class HttpFile(Upstream):
    """A file at an http:// or https:// address. `headers` go to that server only."""

    def __init__(self, address: Address, headers: dict[str, str] | None = None) -> None:
        self._address = address
        self._headers = headers or {}

    def fetch(self, known: str | None, into: Partial, progress: Progress) -> Found | None:
        with opened_client(self._address, self._headers) as client:
            tries, most = 0, -1
            while True:
                try:
                    return self._try(client, known, into, progress)
                except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
                    raise unreachable(self._address, transport_reason(error)) from error
                except httpx.DecodingError as error:
                    raise unreachable(self._address, bounded(str(error), 200)) from error
                except httpx.TransportError as error:
                    arrived = _arrived(into)
                    tries = 0 if arrived > most else tries + 1
                    most = max(most, arrived)
                    if tries >= _TRIES:
                        raise unreachable(
                            self._address, f"{transport_reason(error)} after {arrived} bytes"
                        ) from error

    def _try(
        self, client: httpx.Client, known: str | None, into: Partial, progress: Progress
    ) -> Found | None:
        with answered(client, self._address, self._headers | _conditions(known, into)) as response:
            if response.status_code == httpx.codes.NOT_MODIFIED and known is not None:
                return None
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                into.clear()  # it has all bytes already, or the file has become shorter
                raise httpx.ReadError("the rest of the file is not there", request=response.request)
            require_success(response, self._address)
            revision = _revision(response)
            name = _name(response, self._address)
            begin = _first_byte(response)
            if begin and (revision != into.revision or begin != size_of(into.part_of(name))):
                into.clear()
                raise httpx.ReadError("the file has changed", request=response.request)
            # A body that is decoded on the way cannot be resumed: a range counts the bytes as sent.
            into.begin(revision if _is_plain(response) else None)
            receive(response, into.part_of(name), begin, downloading(name), progress)
            return Found(Address(self._address.scheme, str(response.url)).shown, revision)


@contextmanager
def opened_client(address: Address, headers: Mapping[str, str]) -> Iterator[httpx.Client]:
    """Yield a client with time limits for connecting and for silence, that follows no redirect.

    Without credentials in the address or the headers, it sends those of ~/.netrc to the hosts that
    the file names.
    """
    has_own = bool(urlsplit(address.text).username) or "Authorization" in headers
    limits = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
    auth = None if has_own else _netrc()
    with httpx.Client(timeout=limits, follow_redirects=False, auth=auth) as client:
        yield client


def _netrc() -> httpx.NetRCAuth | None:
    try:
        return httpx.NetRCAuth()
    except FileNotFoundError:
        return None
    except NetrcParseError as error:
        raise UsageError(f"~/.netrc cannot be read: {error}", hint="correct that line") from error


@contextmanager
def answered(
    client: httpx.Client, address: Address, headers: dict[str, str]
) -> Iterator[httpx.Response]:
    """Yield the answer to a GET, its body still to be read, after redirects.

    Raises ExportError for a redirect to an address without TLS or not of HTTP, and for too many.
    """
    try:
        request = client.build_request(
            "GET", address.text, headers={"Accept-Encoding": "identity", **headers}
        )
    except httpx.InvalidURL as error:
        raise ExportError(f"{address.shown} is not a valid address: {error}") from error
    for _ in range(_MOST_REDIRECTS + 1):
        response = _sent(client, request, address)
        try:
            if response.next_request is None:
                yield response
                return
            _require_as_safe(response, address)
            request = response.next_request
        finally:
            response.close()
    raise ExportError(
        f"{address.shown} leads through more than {_MOST_REDIRECTS} redirects",
        hint="open it in a browser, and give the address it ends at",
    )


def _sent(client: httpx.Client, request: httpx.Request, address: Address) -> httpx.Response:
    try:
        return client.send(request, stream=True)
    except UnicodeError as error:  # from Python's own look-up of a name
        host = bounded(request.url.host, 100)
        raise ExportError(
            f"{address.shown} cannot be fetched: {host!r} is not a valid name of a host",
            hint="check the spelling",
        ) from error


def _require_as_safe(response: httpx.Response, address: Address) -> None:
    request = response.next_request
    if request is None or request.url.scheme == "https":
        return
    target = Address(request.url.scheme, str(request.url)).shown
    if request.url.scheme != "http":
        raise ExportError(
            f"{address.shown} redirects to {target}, and only http:// and https:// are followed",
            hint="tell whoever runs that server",
        )
    if response.url.scheme == "http":
        return
    raise ExportError(
        f"{address.shown} redirects to {target}, which is not encrypted",
        hint="anyone on the way could send another model; if you trust the network, give that "
        "address itself, with #sha256=HEX",
    )


def require_success(response: httpx.Response, address: Address) -> None:
    """Raise what the status of the answer says, unless it is 200 or 206."""
    status = response.status_code
    if status in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT}:
        return
    said = f"HTTP {status} {bounded(response.reason_phrase, 100)}".strip()
    if is_outage(status):
        raise unreachable(address, said)
    raise _refusal(status, f"{address.shown} cannot be fetched: {said}")


def _refusal(status: int, message: str) -> MlserveError:
    if status in _ABSENT:
        return NotFound(message, hint="check the address")
    if status in _REFUSED:
        return AccessDenied(
            message,
            hint="a signed address may have expired; give credentials in ~/.netrc, or as "
            "https://USER:PASSWORD@HOST/...",
        )
    return ExportError(message, hint="open the address in a browser to see what is there")


def receive(
    response: httpx.Response, part: Path, begin: int, what: str, progress: Progress
) -> None:
    """Write the body to `part` from the byte `begin` on, and give the file its name at the end.

    Raises ExportError if nothing says where the body ends, so that half a file would look whole.
    """
    length = response.headers.get("Content-Length")
    if length is None and "chunked" not in response.headers.get("Transfer-Encoding", "").lower():
        raise ExportError(
            f"the server of {Address('', str(response.url)).shown} does not say how long the file "
            "is, so half of it would look whole",
            hint="download it in another way, and give --weights FILE with --sha256 HEX",
        )
    total = begin + int(length) if length is not None and _is_plain(response) else None
    with part.open("ab" if begin else "wb") as file:
        progress(what, begin, total)
        for chunk in response.iter_bytes():
            file.write(chunk)
            progress(what, file.tell(), total)
    if size_of(part) < _whole_size(response):  # the server has sent a smaller range than asked for
        raise httpx.ReadError("only a part was sent", request=response.request)
    finish(part)


def _is_plain(response: httpx.Response) -> bool:
    encoding: str = response.headers.get("Content-Encoding", "identity")
    return encoding.lower() == "identity"


def _conditions(known: str | None, into: Partial) -> dict[str, str]:
    """Return headers that ask for the rest of a file, or for the file only if it has changed."""
    begun = into.revision
    arrived = _arrived(into)
    if begun is not None and arrived and begun.startswith(f'{_ETAG}"'):  # weak ones do not count
        return {"Range": f"bytes={arrived}-", "If-Range": begun.removeprefix(_ETAG)}
    if known is None:
        return {}
    if known.startswith(_ETAG):
        return {"If-None-Match": known.removeprefix(_ETAG)}
    return {"If-Modified-Since": known.removeprefix(_MODIFIED)}


def _arrived(into: Partial) -> int:
    parts = list(into.content.iterdir()) if into.content.is_dir() else []
    return size_of(parts[0]) if parts else 0


def _range(response: httpx.Response) -> re.Match[str] | None:
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return None
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None:
        raise httpx.RemoteProtocolError("a range without its place", request=response.request)
    return found


def _first_byte(response: httpx.Response) -> int:
    found = _range(response)
    return int(found[1]) if found else 0


def _whole_size(response: httpx.Response) -> int:
    """Return the size of the whole file that a range is of; 0 if it is none, or is not known."""
    found = _range(response)
    return int(found[2]) if found and found[2] != "*" else 0


def _revision(response: httpx.Response) -> str | None:
    """Return what the file is asked for with next time: so only what a request may contain."""
    etag, modified = (
        value if value.isascii() and value.isprintable() else ""
        for value in (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
    )
    if etag:
        return f"{_ETAG}{etag}"
    return f"{_MODIFIED}{modified}" if modified else None


def _name(response: httpx.Response, address: Address) -> str:
    """Return the name of the file: the address's, or the server's if that has no file type."""
    own = address.name
    if Path(own).suffix:
        return safe_name(own, address.shown)
    header = Message()
    header["Content-Disposition"] = response.headers.get("Content-Disposition", "")
    given = header.get_filename()
    final = Address(address.scheme, str(response.url)).name
    return safe_name(given or (final if Path(final).suffix else own), address.shown)


def transport_reason(error: httpx.TransportError) -> str:
    """Return why there was no answer, in words."""
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    if isinstance(error, httpx.TimeoutException):
        return f"the server was silent for {SILENT_SECONDS:g} s"
    return bounded(str(error), 200) or type(error).__name__
