"""Where a server is: `host:port`, `grpc://`, `grpcs://`, `http://` or `https://host:port`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast
from urllib.parse import SplitResult, urlsplit

from mlserve.errors import UsageError

ProtocolName = Literal["grpc", "rest"]
_PROTOCOLS: dict[str, ProtocolName] = {
    "grpc": "grpc",
    "grpcs": "grpc",
    "http": "rest",
    "https": "rest",
}
_MODEL_PATH = re.compile(r"/v[12]/models/([^/:]+).*")
_SECURE = {"grpc": "grpcs", "http": "https"}
"""The schemes that speak TLS, by those that do not."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a server. `path` is what stands before `/v1/...` in a REST address."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(
        cls, text: str, protocol: ProtocolName | None = None, *, is_secure: bool = False
    ) -> Endpoint:
        """The endpoint that `text` names; `host:port` alone is gRPC unless `protocol` says REST.

        `is_secure`: it speaks TLS, also where `text` does not say so. Raises UsageError, naming
        `text`, for anything that is no endpoint, or one that does not speak TLS.
        """
        if protocol not in (None, "grpc", "rest"):
            raise UsageError(f"there is no protocol {protocol!r}", hint="choose grpc or rest")
        scheme, parts = _split(text, protocol, is_secure=is_secure)
        if is_secure and scheme in _SECURE:
            raise _bad(text, f"with TLS files it must be {_SECURE[scheme]}://")
        if protocol is not None and _PROTOCOLS[scheme] != protocol:
            raise _bad(text, f"it does not fit the protocol {protocol}")
        path = parts.path.rstrip("/")
        if model := _MODEL_PATH.search(path):
            raise UsageError(
                f"{text!r} is not an endpoint: it names the path of a model",
                hint=f"give {scheme}://{parts.netloc}{path[: model.start()]} and "
                f"{{model {model[1]}}}",
            )
        if path and _PROTOCOLS[scheme] == "grpc":
            raise _bad(text, "a gRPC endpoint has no path")
        return cls(scheme, cast(str, parts.hostname), _port(text, scheme, parts), path)

    @property
    def protocol(self) -> ProtocolName:
        return _PROTOCOLS[self.scheme]

    @property
    def is_secure(self) -> bool:
        """Whether it is spoken to in TLS."""
        return self.scheme in _SECURE.values()

    @property
    def address(self) -> str:
        """`host:port`, with an IPv6 host in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, so that no proxy may stand between."""
        return self.host in ("localhost", "::1", "0.0.0.0", "::") or self.host.startswith("127.")

    @property
    def base_url(self) -> str:
        """The REST address without a slash at its end."""
        return f"{self.scheme}://{self.address}{self.path}"

    def __str__(self) -> str:
        return self.address if self.scheme == "grpc" else self.base_url


def _split(text: str, protocol: ProtocolName | None, *, is_secure: bool) -> tuple[str, SplitResult]:
    plain = "http" if protocol == "rest" else "grpc"
    default = _SECURE[plain] if is_secure else plain
    try:
        parts = urlsplit(text if "://" in text else f"{default}://{text}")
        host = parts.hostname
    except ValueError as error:
        raise _bad(text, str(error)) from error
    if "://" not in text and text.startswith(tuple(f"{scheme}:/" for scheme in _PROTOCOLS)):
        raise _bad(text, f"two slashes must follow {text.partition('/')[0]}")
    if parts.scheme not in _PROTOCOLS:
        raise _bad(text, f"{parts.scheme}:// is not known")
    if not host or any(c.isspace() or not c.isprintable() for c in text):
        raise _bad(text, "it has no host")
    if parts.query or parts.fragment or parts.username is not None:
        raise _bad(text, "it has more than a host, a port and a path")
    return parts.scheme, parts


def _port(text: str, scheme: str, parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError as error:
        raise _bad(text, str(error)) from error
    port = _DEFAULT_PORTS.get(scheme) if port is None else port
    if not port:
        raise _bad(text, "it has no port")
    return port


def _bad(text: str, why: str) -> UsageError:
    return UsageError(
        f"{text!r} is not an endpoint: {why}",
        hint="give host:port for gRPC or http://host:port for REST, for example 127.0.0.1:8500; "
        "with TLS grpcs:// or https://",
    )


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS: PEM files. `ca` None trusts whom the system trusts.

    `cert` and `key` are the client's own, for a server that asks for one. `server_name` is the name
    that the server's certificate must have, when that is not the host of the endpoint. Raises
    UsageError when only one of `cert` and `key` is given.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise UsageError(
                "a client certificate needs its key, and a key its certificate",
                hint="give both: {tls_pair}",
            )


@dataclass(frozen=True, slots=True)
class Access:
    """The token and the TLS files of a client; neither by default."""

    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise UsageError(
                "the token is empty or has characters other than visible ASCII",
                hint="give the token alone, without white space around it",
            )

    def headers(self) -> dict[str, str]:
        """The headers, or gRPC metadata, that carry the token."""
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}

    def exposure(self, endpoint: Endpoint) -> str | None:
        """The warning to give when the token would cross a network unencrypted; else None."""
        if self.token is None or endpoint.is_secure or endpoint.is_loopback:
            return None
        secure = "grpcs" if endpoint.protocol == "grpc" else "https"
        return (
            f"the token is sent to {endpoint} unencrypted, and anyone on the network can read it: "
            f"serve with --tls-cert and --tls-key, and ask {secure}://{endpoint.address}"
        )
