"""Who may ask: a bearer token on REST and in gRPC's metadata, compared in constant time.

Everything needs it but what a protocol opens to all: the endpoints (REST) and the methods (gRPC)
without `needs_token`. Those report the server's health, so that a probe without secrets works.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.requests import Request

from mlserve.credentials import read_token
from mlserve.errors import AccessDenied, NotAllowed
from mlserve.server.listen.grpc.call import Context
from mlserve.server.listen.grpc.service import header_of, status_of
from mlserve.server.request import LONGEST_PATH, Purpose, Route
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.settings import ServerSettings, flag_of

_SCHEME = "bearer"
_HINT = "send `Authorization: Bearer <token>`, on gRPC as metadata of the call"


class RestGate:
    """Refuses requests without the token by their headers."""

    def __init__(self, token: bytes | None) -> None:
        self._token = token

    @classmethod
    def from_settings(cls, settings: ServerSettings) -> RestGate:
        """The gate for the token file of the settings, open where there is none."""
        path = settings.token_file
        return cls(None if path is None else read_token(path))

    def check(self, request: Request) -> None:
        """Raises AccessDenied unless the request has the token."""
        if self._token is not None:
            check_token(request.headers.getlist("authorization"), self._token)


class GrpcGate:
    """Refuses calls without the token by their headers, whatever the service."""

    def __init__(self, token: bytes, telemetry: Telemetry) -> None:
        self._token = token
        self._telemetry = telemetry

    def check(self, context: Context, route: Route | None) -> None:
        """Raises GrpcStatus unless the call has the token; `route` is that of a method of ours."""
        given = [value for key, value in context.invocation_metadata() if key == "authorization"]
        try:
            check_token(given, self._token)
        except AccessDenied as error:
            path = context.path[:LONGEST_PATH]
            route = route or Route("grpc", "", Purpose.OTHER, path)
            record = self._telemetry.begin(route, header_of(context))
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
