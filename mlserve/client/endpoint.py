"""A server's address and how to speak to it: what a client knows before its first request."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack, cast, get_args
from urllib.parse import SplitResult, urlsplit

from mlserve.client.call import Trace
from mlserve.client.retries import DEFAULT_RETRIES, Retries
from mlserve.errors import UsageError, either
from mlserve.wire.headers import REQUEST_PRIORITY, REQUEST_PROBE

ProtocolName = Literal["grpc", "rest"]
Api = Literal["tfs", "oip", "torchserve"]
"""TensorFlow Serving's API, version 1, the Open Inference Protocol, version 2, or TorchServe's."""
APIS: tuple[Api, ...] = get_args(Api)
PriorityName = Literal["sheddable", "default", "critical"]
"""How important calls are. Under overload an mlserve server refuses the less important first."""
_PRIORITIES: tuple[PriorityName, ...] = get_args(PriorityName)
DEFAULT_MAX_ANSWER_BYTES = 64 * 2**20
_PROTOCOLS: dict[str, ProtocolName] = {
    "grpc": "grpc",
    "grpcs": "grpc",
    "http": "rest",
    "https": "rest",
}
_MODEL_PATH = re.compile(r"/(?:v[12]/models|predictions)/([^/:]+).*")
_UNIX = re.compile(r"(?P<http>http\+)?unix:(?P<path>.*)", re.DOTALL)
_LONGEST_SOCKET = 107
"""Bytes that the path of a UNIX socket may have (unix(7))."""
_SECURE = {"grpc": "grpcs", "http": "https"}
"""The TLS scheme for each scheme without TLS."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a server. `path` is what precedes `/v1/...` in a REST address.

    A server on this machine may listen on a UNIX socket, whose path is `socket`; host and port then
    mean nothing.
    """

    scheme: str
    host: str
    port: int
    path: str = ""
    socket: str = ""

    @classmethod
    def parse(
        cls, text: str, protocol: ProtocolName | None = None, *, is_secure: bool = False
    ) -> Endpoint:
        """Parse an endpoint; `host:port` alone is gRPC unless `protocol` says REST.

        `is_secure`: it uses TLS, even if `text` does not say so. Raises UsageError, naming `text`,
        for an invalid endpoint, and for one without TLS where TLS is required.
        """
        if protocol not in (None, "grpc", "rest"):
            raise UsageError(f"{protocol!r} is not a protocol", hint="choose grpc or rest")
        if (unix := _UNIX.fullmatch(text)) is not None:
            return cls._of_socket(text, unix, protocol, is_secure=is_secure)
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

    @classmethod
    def _of_socket(
        cls, text: str, unix: re.Match[str], protocol: ProtocolName | None, *, is_secure: bool
    ) -> Endpoint:
        """Return the endpoint of `unix:PATH`, for gRPC unless `protocol` says REST."""
        is_rest = unix["http"] is not None
        if is_secure:
            raise _bad(text, "a UNIX socket has no TLS")
        if is_rest and protocol == "grpc":
            raise _bad(text, "it does not fit the protocol grpc")
        path = unix["path"].removeprefix("//") if unix["path"].startswith("///") else unix["path"]
        if path.startswith("//"):
            raise _bad(text, "three slashes must follow if it begins with two")
        if not path or not path.isprintable():
            raise _bad(text, "it has no path")
        path = os.path.abspath(path)  # noqa: PTH100 - this module loads no pathlib at its start
        if len(path.encode()) > _LONGEST_SOCKET:
            raise _bad(text, f"the path of a UNIX socket has at most {_LONGEST_SOCKET} bytes")
        scheme = "http" if is_rest or protocol == "rest" else "grpc"
        return cls(scheme, "localhost", 0, socket=path)

    @property
    def protocol(self) -> ProtocolName:
        return _PROTOCOLS[self.scheme]

    @property
    def is_secure(self) -> bool:
        """Whether it uses TLS."""
        return self.scheme in _SECURE.values()

    @property
    def address(self) -> str:
        """`host:port`, with an IPv6 host in brackets; `unix:PATH` for a UNIX socket."""
        if self.socket:
            return f"unix:{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, in which case no proxy is used."""
        return self.host in ("localhost", "::1", "0.0.0.0", "::") or self.host.startswith("127.")

    @property
    def authority(self) -> str:
        """What requests name as the server: `host:port`, or `localhost` for a UNIX socket."""
        return self.host if self.socket else self.address

    @property
    def base_url(self) -> str:
        """The REST address without a trailing slash."""
        if self.socket:
            return f"http://{self.host}"
        return f"{self.scheme}://{self.address}{self.path}"

    def __str__(self) -> str:
        if self.socket:
            return f"{'http+' if self.scheme == 'http' else ''}{self.address}"
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
    """TLS settings: PEM files. `ca` None trusts the system's certificate authorities.

    `cert` and `key` are the client's own, for a server that requests one. `server_name` is the name
    that the server's certificate must have if it is not the host of the endpoint. Raises UsageError
    if only one of `cert` and `key` is given.
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


class ConnectionOptions(TypedDict, total=False):
    """The options of a client beside the endpoint, as documented by `Connection`."""

    model: str | None
    version: int | None
    api: Api | None
    token: str | None
    tls: Tls | None
    retries: Retries
    max_answer_bytes: int
    traceparent: str | None
    priority: PriorityName | None
    throttle: bool
    probe: bool


@dataclass(frozen=True, slots=True)
class Connection:
    """A server, the model to ask there, and how to speak to it.

    `model` None is the server's only one; `version` None leaves the choice to the server. `api`
    None is found by trying. `token` is sent with each request. `tls` are the TLS files, None
    without any. `retries` apply to all calls but `status` and `load`. `max_answer_bytes` limits the
    size of an answer. `traceparent` is the W3C trace that the calls belong to; None takes the
    environment's TRACEPARENT, else each call begins a trace. `priority` is how important the calls
    are; None does not say it, which is `default`. With `throttle`, most of the
    calls that a server would refuse are not sent (`mlserve.client.throttle`). `probe` says that the
    calls only try whether the server answers, so that it does not record them (`--record`).
    """

    endpoint: Endpoint
    model: str | None = None
    version: int | None = None
    api: Api | None = None
    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    retries: Retries = DEFAULT_RETRIES
    max_answer_bytes: int = DEFAULT_MAX_ANSWER_BYTES
    traceparent: str | None = None
    priority: PriorityName | None = None
    throttle: bool = True
    probe: bool = False

    @classmethod
    def to(
        cls,
        endpoint: str,
        protocol: ProtocolName | None = None,
        **options: Unpack[ConnectionOptions],
    ) -> Connection:
        """Return the connection to an endpoint in text form. Raises UsageError for a bad value."""
        _check_kinds({"endpoint": endpoint, **options})
        has_tls = options.get("tls") is not None
        return cls(Endpoint.parse(endpoint, protocol, is_secure=has_tls), **options)

    def __post_init__(self) -> None:
        if self.api is not None and self.api not in APIS:
            raise UsageError(f"{self.api!r} is not an API", hint=f"choose {', '.join(APIS)}")
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise UsageError(
                "the token is empty or has characters other than visible ASCII",
                hint="give the token alone, without white space around it",
            )
        if self.priority is not None and self.priority not in _PRIORITIES:
            raise UsageError(
                f"{self.priority!r} is not a priority", hint=f"choose {either(_PRIORITIES)}"
            )
        Trace.following(self.traceparent)  # raises for a malformed one now, not at the first call

    @property
    def tls_files(self) -> Tls:
        """The TLS settings; by default, the system's certificate authorities."""
        return self.tls or Tls()

    @property
    def has_certificate(self) -> bool:
        """Whether the client has a certificate to present."""
        return self.tls_files.cert is not None

    def access_headers(self) -> dict[str, str]:
        """Return the headers, or gRPC metadata, that carry the token."""
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}

    def headers(self) -> dict[str, str]:
        """Return the headers, or gRPC metadata, of every call: the token, and what it is for."""
        headers: dict[str, str] = {}
        if self.priority is not None:
            headers[REQUEST_PRIORITY] = self.priority
        if self.probe:
            headers[REQUEST_PROBE] = "1"
        return headers | self.access_headers()

    def exposure(self) -> str | None:
        """Return the warning for a token that would cross a network unencrypted, else None."""
        endpoint = self.endpoint
        if self.token is None or endpoint.is_secure or endpoint.is_loopback:
            return None
        secure = "grpcs" if endpoint.protocol == "grpc" else "https"
        return (
            f"the token is sent to {endpoint} unencrypted, and anyone on the network can read it: "
            f"serve with --tls-cert and --tls-key, and ask {secure}://{endpoint.address}"
        )


_KINDS = {
    "endpoint": str,
    "model": str,
    "version": int,
    "token": str,
    "tls": Tls,
    "retries": Retries,
    "max_answer_bytes": int,
}
_KIND_NAMES = {int: "a whole number", str: "text", Retries: "mlserve.Retries", Tls: "mlserve.Tls"}


def _check_kinds(values: dict[str, Any]) -> None:
    """Raise UsageError for a value that is neither None nor of its type."""
    for name, value in values.items():
        kind = _KINDS.get(name)
        if kind is None or value is None:
            continue
        if isinstance(value, kind) and not isinstance(value, bool):
            continue
        shown = type(value).__name__ if name == "token" else repr(value)
        raise UsageError(
            f"{name} must be {_KIND_NAMES[kind]}, not {shown}",
            hint="see help(mlserve.Client)",
        )


Method = TypeVar("Method", bound=Callable[..., Any])


def shows_options(init: Method) -> Method:
    """Decorate an `__init__` that takes ConnectionOptions, so that `help` lists them one by one."""
    signature = inspect.signature(init)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [_parameter(option) for option in fields(Connection) if option.name != "endpoint"]
    init.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own, *options]
    )
    return init


def _parameter(option: Any) -> inspect.Parameter:
    assert option.default is not MISSING
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=option.default,
        annotation=option.type,
    )
