"""Check bearer tokens, in REST headers and gRPC metadata, in constant time, and say whose they are.

Everything requires a token except REST operations and gRPC methods without `needs_token`. Those
report the server's health, so that probes work without secrets.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from hashlib import blake2b

from mlserve.credentials import tokens_of
from mlserve.errors import AccessDenied, NotAllowed
from mlserve.options import flag_of
from mlserve.server.listen.grpc.call import Context
from mlserve.server.listen.grpc.service import header_of, status_of
from mlserve.server.message import Request
from mlserve.server.request import LONGEST_PATH, Purpose, Route
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.settings import ServerSettings
from mlserve.tokens import Token

_SCHEME = "bearer"
_HINT = "send `Authorization: Bearer <token>`, on gRPC as metadata of the call"
_NOBODY = (b"", "")


class KnownTokens:
    """The tokens that a server takes, of which it keeps digests under a key of its own.

    A token is looked up by its digest, which a caller who does not know the key cannot choose. So
    the time says nothing about how much of a guess is right, or of whose token; and a check takes
    as long with a thousand tokens as with one.
    """

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._key = secrets.token_bytes(blake2b.MAX_KEY_SIZE)
        digests = [(self._digest(token.secret), token.name) for token in tokens]
        self._known = {digest: (digest, name) for digest, name in digests}

    def name_of(self, authorizations: Sequence[str | bytes]) -> str:
        """Return the name of the one token in these headers; empty for one without a name.

        Raises AccessDenied unless there is exactly one header, and it is `Bearer <token>`. With
        several, a proxy in front may have checked a different one than this server would.
        """
        given = self._digest(_secret_in(authorizations))
        digest, name = self._known.get(given, _NOBODY)
        if not hmac.compare_digest(given, digest):
            raise AccessDenied(
                "the token does not match this server's"
                if len(self._known) == 1
                else "the token matches none of this server's",
                hint=_HINT,
            )
        return name

    def _digest(self, secret: bytes) -> bytes:
        return blake2b(secret, key=self._key).digest()


class RestGate:
    """Refuse REST requests without a token, before their body is read."""

    def __init__(self, tokens: KnownTokens | None) -> None:
        self._tokens = tokens

    @classmethod
    def from_settings(cls, settings: ServerSettings) -> RestGate:
        """Build the gate for the token file in the settings; without one, everyone is admitted."""
        tokens = tokens_of(settings)
        return cls(KnownTokens(tokens) if tokens else None)

    def check(self, request: Request) -> str:
        """Return the name of the request's token, empty without a name or where none is needed.

        Raises AccessDenied for a request without a token of this server.
        """
        if self._tokens is None:
            return ""
        return self._tokens.name_of(request.headers.all("authorization"))


class GrpcGate:
    """Refuse gRPC calls without a token, whatever the service, before their data is read."""

    def __init__(self, tokens: KnownTokens, telemetry: Telemetry) -> None:
        self._tokens = tokens
        self._telemetry = telemetry

    @classmethod
    def from_settings(cls, settings: ServerSettings, telemetry: Telemetry) -> GrpcGate | None:
        """Build the gate for the token file in the settings; None without one."""
        tokens = tokens_of(settings)
        return cls(KnownTokens(tokens), telemetry) if tokens else None

    def check(self, context: Context, route: Route | None) -> None:
        """Note the name of the call's token in its context; unknown methods have no `route`.

        Raises GrpcStatus for a call without a token of this server.
        """
        given = [value for key, value in context.invocation_metadata() if key == "authorization"]
        try:
            context.token = self._tokens.name_of(given)
        except AccessDenied as error:
            path = context.path[:LONGEST_PATH]
            route = route or Route("grpc", "", Purpose.OTHER, path)
            record = self._telemetry.begin(route, header_of(context), context.address)
            refusal = status_of(error, record)
            self._telemetry.end(record)
            raise refusal from None


def _secret_in(authorizations: Sequence[str | bytes]) -> bytes:
    """Return what stands behind `Bearer` in the one header. Raises AccessDenied."""
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
    return given.strip()


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
