"""Check bearer tokens, in REST headers and gRPC metadata, in constant time.

Everything requires the token except REST operations and gRPC methods without `needs_token`. Those
report the server's health, so that probes work without secrets.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from mlserve.credentials import read_token
from mlserve.errors import AccessDenied, NotAllowed
from mlserve.options import flag_of
from mlserve.server.listen.grpc.call import Context
from mlserve.server.listen.grpc.service import header_of, status_of
from mlserve.server.message import Request
from mlserve.server.request import LONGEST_PATH, Purpose, Route
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.settings import ServerSettings

_SCHEME = "bearer"
_HINT = "send `Authorization: Bearer <token>`, on gRPC as metadata of the call"


class RestGate:
    """Refuse REST requests without the token, before their body is read."""

    def __init__(self, token: bytes | None) -> None:
        self._token = token

    @classmethod
    def from_settings(cls, settings: ServerSettings) -> RestGate:
        """Build the gate for the token file in the settings; without one, everyone is admitted."""
        path = settings.token_file
        return cls(None if path is None else read_token(path))

    def check(self, request: Request) -> None:
        """Raise AccessDenied unless the request carries the token."""
        if self._token is not None:
            check_token(request.headers.all("authorization"), self._token)


class GrpcGate:
    """Refuse gRPC calls without the token, whatever the service, before their data is read."""

    def __init__(self, token: bytes, telemetry: Telemetry) -> None:
        self._token = token
        self._telemetry = telemetry

    def check(self, context: Context, route: Route | None) -> None:
        """Raise GrpcStatus unless the call carries the token; unknown methods have no `route`."""
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
    """Raise AccessDenied unless there is exactly one header, and it is `Bearer <token>`.

    With several, a proxy in front may have checked a different one than this server would.
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
    """Raise NotAllowed unless callers of a server listening on `host` may change its models.

    A web page can POST to any server on the user's own machine, so requests from a browser are
    refused unless the server requires a token.
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
