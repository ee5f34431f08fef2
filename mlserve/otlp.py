"""Where telemetry goes: the address of an OpenTelemetry collector, and what it takes to send there.

This module imports nothing of OpenTelemetry. `mlserve.otlp_sdk` calls the official SDK, which is an
extra of mlserve and is imported only where something is sent.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from mlserve.errors import UsageError, either, shortened

EXTRA = "otlp"
"""The extra of mlserve that has the official SDK and its exporters."""
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
_PROTOCOLS = ("grpc", "http/protobuf")
_HEADERS = tuple(f"OTEL_EXPORTER_OTLP_{signal}HEADERS" for signal in ("", "TRACES_", "METRICS_"))
_HEADER = re.compile(r"[ \t]*([\w.-]+)[ \t]*=([ !#-+\--:<-\[\]-~]*)", re.ASCII)
"""A header as these variables have it: others the SDK would log with what is secret in them."""
_GRPC_PORT = 4317
"""The registered port of OTLP over gRPC; OTLP over HTTP has 4318."""
_DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": _GRPC_PORT, "grpcs": _GRPC_PORT}
_SIGNAL_PATHS = ("/v1/traces", "/v1/metrics")
_EXAMPLE = "give for example http://localhost:4318 (HTTP) or grpc://localhost:4317 (gRPC)"


@dataclass(frozen=True, slots=True)
class CollectorAddress:
    """The address of a collector; `host` has no brackets, `path` is empty or begins with a slash.

    `scheme` is http or https, or grpc or grpcs, which leave no doubt about the protocol.
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> CollectorAddress:
        """Read a URL. Raises UsageError for one that names no collector."""
        from urllib.parse import urlsplit  # not needed by `predict`, which imports this module

        if "@" in url:
            raise UsageError(
                "--otlp takes no user and no password in its URL, which others can read",
                hint="give credentials in the variable OTEL_EXPORTER_OTLP_HEADERS: "
                "authorization=Bearer%20TOKEN",
            )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _not_a_collector(url, _EXAMPLE) from None
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise _not_a_collector(url, _EXAMPLE)
        path = parts.path.rstrip("/")
        if path.endswith(_SIGNAL_PATHS):
            raise _not_a_collector(url, "leave out what is added to it: /v1/traces, /v1/metrics")
        if parts.query or parts.fragment or (path and parts.scheme.startswith("grpc")):
            raise _not_a_collector(url, "leave out what stands behind the port")
        if port == 0:
            raise _not_a_collector(url, _EXAMPLE)
        port = port or _DEFAULT_PORTS[parts.scheme]
        return cls(url, parts.scheme, parts.hostname, port, path)

    @property
    def is_secure(self) -> bool:
        """Whether it is asked over TLS."""
        return self.scheme in ("https", "grpcs")

    @property
    def speaks_grpc(self) -> bool:
        """Whether it is asked over gRPC and not over HTTP.

        The scheme says so, or OTEL_EXPORTER_OTLP_PROTOCOL, or the port that is registered for it.
        """
        if self.scheme.startswith("grpc"):
            return True
        protocol = os.environ.get(PROTOCOL, "")
        if protocol:
            return protocol == "grpc"
        return self.port == _GRPC_PORT and not self.path

    @property
    def authority(self) -> str:
        """Host and port, with an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return self.url


def require_sdk() -> None:
    """Raise PluginError if the extra is not installed; imports nothing of it."""
    from mlserve.distributions import CORE, absent_packages, install_command, not_installed

    if absent := absent_packages(CORE, EXTRA):
        command = install_command(f"{CORE}[{EXTRA}]")
        raise not_installed(
            "--otlp", *absent, hint=f"{command}; an image has it if the machine that builds it does"
        )


def require_known_protocol(collector: CollectorAddress) -> None:
    """Raise UsageError if the variable of the protocol asks for one that is not spoken."""
    protocol = os.environ.get(PROTOCOL, "")
    if protocol and protocol not in _PROTOCOLS and not collector.scheme.startswith("grpc"):
        raise UsageError(
            f"{PROTOCOL} is {shortened(protocol)!r}, which mlserve does not speak",
            hint=f"set it to {either(_PROTOCOLS)}, or leave it out",
        )


def require_sound_headers() -> None:
    """Raise UsageError for a variable with headers that cannot be sent; it shows none of them."""
    for variable in _HEADERS:
        for number, header in enumerate(os.environ.get(variable, "").split(","), 1):
            if header.strip() and not _is_sound(header):
                raise UsageError(
                    f"header {number} in {variable} cannot be sent",
                    hint="it is NAME=VALUE,NAME=VALUE; write %20 for a space, %22 for a quote, "
                    "%2C for a comma",
                )


def _is_sound(header: str) -> bool:
    from urllib.parse import unquote

    found = _HEADER.fullmatch(header)
    if found is None or found[1].endswith("-bin"):  # over gRPC, a value of bytes
        return False
    value = unquote(found[2])
    return value.isascii() and value.strip().isprintable()


def _not_a_collector(url: str, hint: str) -> UsageError:
    return UsageError(f"{shortened(url)!r} is not the URL of a collector (--otlp)", hint=hint)
