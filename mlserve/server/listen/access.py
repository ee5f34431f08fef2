"""Who may ask: a bearer token on REST and in gRPC's metadata, compared in constant time.

Everything needs it but what a protocol names as open: the paths of its `open_paths` over REST, the
methods without `needs_token` over gRPC. Those report the server's health, so that a probe without
secrets works.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence

from starlette.requests import Request
from starlette.responses import Response

from mlserve.credentials import read_token
from mlserve.errors import AccessDenied, NotAllowed
from mlserve.server.listen.grpc.call import Context
from mlserve.server.listen.grpc.service import header_of, status_of
from mlserve.server.telemetry.telemetry import Telemetry, grpc_route
from mlserve.settings import ServerSettings, flag_of

_SCHEME = "bearer"
_HINT = "send `Authorization: Bearer <token>`, on gRPC as metadata of the call"


class RestGate:
    """Stands before the protocols of the REST port; answers nothing itself."""

    def __init__(self, token: bytes | None, open_paths: Collection[str]) -> None:
        self._token = token
        self._open_paths = open_paths

    @classmethod
    def from_settings(cls, settings: ServerSettings, open_paths: Collection[str]) -> RestGate:
        """The gate for the token file of the settings, open where there is none.

        The `open_paths` need no token, with a slash at their end or without.
        """
        path = settings.token_file
        return cls(None if path is None else read_token(path), open_paths)

    async def respond(self, request: Request) -> Response | None:
        """Returns None, for the next protocol to answer. Raises AccessDenied."""
        # Not request.url, which older versions of Starlette make with the Host header, as it is.
        path = request.scope["raw_path"].decode("ascii", "replace")
        if self._token is not None and path.rstrip("/") not in self._open_paths:
            check_token(request.headers.getlist("authorization"), self._token)
        return None


class GrpcGate:
    """Refuses calls without the token by their headers, whatever the service."""

    def __init__(self, token: bytes, telemetry: Telemetry) -> None:
        self._token = token
        self._telemetry = telemetry

    def check(self, context: Context) -> None:
        """Raises GrpcStatus unless the call has the token."""
        given = [value for key, value in context.invocation_metadata() if key == "authorization"]
        try:
            check_token(given, self._token)
        except AccessDenied as error:
            record = self._telemetry.begin(grpc_route(context.path), header_of(context))
            refusal = status_of(error, record)
            self._telemetry.end(record)
            raise refusal from None


def check_token(authorizations: Sequence[str | bytes], token: bytes) -> None:
    """Raises AccessDenied unless there is one such header, and it is `Bearer <token>`.

    Of several, a proxy in front may have checked another one than this server would.
    """
    if not authorizations:
        raise AccessDenied("this server requires a token, and the request has none", hint=_HINT)
    if len(authorizations) > 1:
        raise AccessDenied(
            f"the request has {len(authorizations)} Authorization headers", hint="send one"
        )
    [authorization] = authorizations
    text = authorization if isinstance(authorization, bytes) else authorization.encode()
    scheme, _, given = text.partition(b" ")
    if scheme.decode("ascii", "replace").lower() != _SCHEME:
        raise AccessDenied("the authorization is not a bearer token", hint=_HINT)
    if not hmac.compare_digest(given.strip(), token):
        raise AccessDenied("the token does not match this server's", hint=_HINT)


def require_control(settings: ServerSettings, host: str, *, is_from_browser: bool = False) -> None:
    """Raises NotAllowed unless a caller of a server at that address may change its models.

    A page in a browser can send a POST to any server on the user's own machine, so its requests
    are refused where no token proves that it may.
    """
    flag = flag_of("model_control")
    if not settings.lets_models_be_controlled(host):
        raise NotAllowed(
            f"this server does not let anyone load or unload its models ({flag} "
            f"{settings.model_control.value})",
            hint=f"start it with {flag_of('token_file')}, or with {flag} on",
        )
    if is_from_browser and settings.token_file is None:
        raise NotAllowed(
            "a page in a browser may not load or unload models of a server without a token",
            hint=f"start the server with {flag_of('token_file')}",
        )
