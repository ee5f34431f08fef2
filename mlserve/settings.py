"""The settings of a server: each defined once, with default, limits and help text.

A setting is a field of a dataclass that inherits `mlserve.options.Options`. From that field come
the option of `mlserve up`, the flag of the server process, the argument of a container, the entry
in the record of a running server, and the checks. `mlserve.load_options` has those of how a model
is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from mlserve.errors import UsageError
from mlserve.images import MAX_DECODE_BYTES, MAX_PIXELS, MAX_SCANS, MAX_SIDE, ImageLimits
from mlserve.options import HelpPanel, Options, flag_of, option
from mlserve.otlp import CollectorAddress
from mlserve.paths import expanded
from mlserve.rollout import SHADOW, SHADOW_TOKEN_FILE, SPLIT, RolloutOptions
from mlserve.tokens import shares_in


class LogFormat(StrEnum):
    """The format of the server's log: text lines, or one JSON object per line."""

    TEXT = "text"
    JSON = "json"


class LogRequests(StrEnum):
    """Which requests are logged; health checks and scrapes never are."""

    ALL = "all"
    ERRORS = "errors"
    NONE = "none"


class ModelControl(StrEnum):
    """Who may load and unload models while the server runs.

    auto: callers with the token or a certificate; if none is required, only this machine.
    """

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class ServerSettings(Options):
    """The settings of one server. Times are seconds; None leaves the choice to the server.

    Raises UsageError for a value below its least.
    """

    max_queue: int | None = field(
        default=None,
        metadata=option(
            HelpPanel.LOAD,
            "The most requests that may wait.",
            unit="requests",
            least=0,
            chosen="no limit: time and --max-queue-bytes bound the queue",
        ),
    )
    max_queue_bytes: int | None = field(
        default=None,
        metadata=option(
            HelpPanel.LOAD,
            "The most bytes of requests that may wait.",
            unit="bytes",
            least=1,
            chosen="an eighth of the memory that the server may use",
        ),
    )
    default_timeout: float = field(
        default=30.0,
        metadata=option(
            HelpPanel.LOAD,
            "Deadline of a request that does not set one, in seconds.",
            unit="seconds",
            least=0.001,
        ),
    )
    drain_timeout: float = field(
        default=10.0,
        metadata=option(
            HelpPanel.LOAD,
            "Seconds that the requests in flight have to finish when the server is told to stop.",
            unit="seconds",
            least=0,
        ),
    )
    max_batch_size: int | None = field(
        default=None,
        metadata=option(
            HelpPanel.LOAD,
            "The most requests to run together as one batch. 1 turns batching off.",
            unit="requests",
            least=1,
            chosen="1; on a GPU, what suits it",
        ),
    )
    max_batch_delay: float = field(
        default=0.005,
        metadata=option(
            HelpPanel.LOAD, "Seconds that a batch waits for more requests.", unit="seconds", least=0
        ),
    )
    max_request_bytes: int = field(
        default=64 * 2**20,
        metadata=option(
            HelpPanel.LIMITS,
            "The largest request, in bytes, on gRPC and REST.",
            unit="bytes",
            least=1,
        ),
    )
    max_body_memory: int | None = field(
        default=None,
        metadata=option(
            HelpPanel.LIMITS,
            "The most bytes that all requests together may hold while they arrive, are "
            "decompressed and are parsed.",
            unit="bytes",
            least=1,
            chosen="8 times --max-request-bytes",
        ),
    )
    max_pixels: int = field(
        default=MAX_PIXELS,
        metadata=option(
            HelpPanel.LIMITS, "The most pixels of one image, by its header.", unit="pixels", least=1
        ),
    )
    max_request_pixels: int = field(
        default=400_000_000,
        metadata=option(
            HelpPanel.LIMITS,
            "The most pixels of all images of one request; never less than --max-pixels.",
            unit="pixels",
            least=1,
        ),
    )
    max_side: int = field(
        default=MAX_SIDE,
        metadata=option(
            HelpPanel.LIMITS,
            "The largest width and the largest height of an image, in pixels.",
            unit="pixels",
            least=1,
        ),
    )
    max_scans: int = field(
        default=MAX_SCANS,
        metadata=option(
            HelpPanel.LIMITS,
            "The most scans of one JPEG. A progressive one has 6 to 25.",
            unit="scans",
            least=1,
        ),
    )
    max_decode_bytes: int = field(
        default=MAX_DECODE_BYTES,
        metadata=option(
            HelpPanel.LIMITS,
            "The most bytes that the decoder of one image works on: what the file decompresses "
            "to, and three for each pixel.",
            unit="bytes",
            least=1,
        ),
    )
    max_batch_length: int = field(
        default=1024,
        metadata=option(
            HelpPanel.LIMITS,
            "The most elements of a request's inputs along the batch dimension.",
            unit="elements",
            least=1,
        ),
    )
    max_json_depth: int = field(
        default=64,
        metadata=option(
            HelpPanel.LIMITS,
            "The most levels of nesting in a request's JSON.",
            unit="levels",
            least=1,
        ),
    )
    header_timeout: float = field(
        default=10.0,
        metadata=option(
            HelpPanel.LIMITS,
            "Seconds within which the headers of a request must arrive.",
            unit="seconds",
            least=0.001,
        ),
    )
    max_connections: int = field(
        default=1000,
        metadata=option(
            HelpPanel.LIMITS,
            "The most connections to one port at the same time.",
            unit="connections",
            least=1,
        ),
    )
    token_file: Path | None = field(
        default=None,
        metadata=option(
            HelpPanel.ACCESS,
            "File with the token that every request must send. Several stand one a line.",
        ),
    )
    max_share: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.ACCESS,
            "The most of the server's time that the tokens of these names may use while others "
            "wait: batch=0.3,web=0.5.",
            unit="shares",
            chosen="all of it, for every token",
        ),
    )
    tls_cert: Path | None = field(
        default=None,
        metadata=option(
            HelpPanel.ACCESS, "PEM file with the server's certificate. Both ports then speak TLS."
        ),
    )
    tls_key: Path | None = field(
        default=None,
        metadata=option(HelpPanel.ACCESS, "PEM file with the private key of that certificate."),
    )
    tls_client_ca: Path | None = field(
        default=None,
        metadata=option(
            HelpPanel.ACCESS,
            "PEM file with the authority (CA) that must have signed each client's certificate.",
        ),
    )
    require_signature: Path | None = field(
        default=None,
        metadata=option(
            HelpPanel.ACCESS,
            "PEM file with the public key, or the authority (CA), that must have signed each "
            "version: no other is loaded (`mlserve models sign`).",
        ),
    )
    grpc_socket: Path | None = field(
        default=None,
        metadata=option(
            HelpPanel.ACCESS,
            "UNIX socket for gRPC, beside the port and without TLS. Who may write the file may "
            "connect.",
        ),
    )
    rest_socket: Path | None = field(
        default=None,
        metadata=option(
            HelpPanel.ACCESS, "UNIX socket for REST, beside the port, like that for gRPC."
        ),
    )
    model_control: ModelControl = field(
        default=ModelControl.AUTO,
        metadata=option(
            HelpPanel.ACCESS,
            "Whether requests may load and unload models: on, off, or auto: where a token or "
            "client certificate is required, else on loopback only.",
        ),
    )
    page: bool = field(
        default=True,
        metadata=option(
            HelpPanel.ACCESS,
            "Whether the REST port has pages for people: at / to ask a model and see the load, at "
            "/docs the API. They need no token themselves; what they ask does.",
        ),
    )
    log_format: LogFormat = field(
        default=LogFormat.TEXT,
        metadata=option(HelpPanel.LOGS, "Format of the server's log: text or json."),
    )
    log_requests: LogRequests | None = field(
        default=None,
        metadata=option(
            HelpPanel.LOGS,
            "Which requests the log shows: all, errors or none.",
            chosen="errors in a text log, all in a JSON log",
        ),
    )
    otlp: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.LOGS,
            "Send spans and metrics to this OpenTelemetry collector: http://HOST:4318, or "
            "grpc://HOST:4317. Needs the extra `otlp`.",
            unit="url",
            chosen="they are sent nowhere",
        ),
    )
    record: Path | None = field(
        default=None,
        metadata=option(
            HelpPanel.RECORDING,
            "Folder to record the traffic in, for `mlserve replay`: when each request came, its "
            "deadline, kind, outcome and times, but not what it asked.",
            unit="dir",
        ),
    )
    record_bodies: float | None = field(
        default=None,
        metadata=option(
            HelpPanel.RECORDING,
            "The share of the requests, 0 to 1, whose bodies and answers are recorded too, up to "
            "8 MiB each. They may be personal data.",
            unit="share",
            least=0,
            chosen="none",
        ),
    )
    record_bytes: int = field(
        default=256 * 2**20,
        metadata=option(
            HelpPanel.RECORDING,
            "The most bytes that the recordings in the folder may have. The oldest go first.",
            unit="bytes",
            least=2**20,
        ),
    )
    shadow: str | None = field(default=None, metadata=SHADOW)
    shadow_token_file: Path | None = field(default=None, metadata=SHADOW_TOKEN_FILE)
    split: str | None = field(default=None, metadata=SPLIT)

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.max_share is not None:
            shares_in(self.max_share)
        if self.record_bodies is not None and self.record_bodies > 1:
            raise UsageError(
                f"{flag_of('record_bodies')} must be a share from 0 to 1, not "
                f"{self.record_bodies:g}",
                hint="give for example 0.05, for one request of twenty",
            )
        _ = self.rollout  # raises UsageError
        if self.otlp is not None:
            CollectorAddress.of(self.otlp)
        for name, needed in _NEEDS:
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise UsageError(
                    f"{flag_of(name)} needs {flag_of(needed)}", hint="give both, or neither"
                )

    def exposure(self, host: str) -> Iterator[str]:
        """Yield sentences on the risks of listening on that address with these settings."""
        if is_loopback(host):
            return
        if self.token_file is None and self.tls_client_ca is None:
            yield (
                f"the server listens on {host} and answers anyone who can reach it: "
                f"{flag_of('token_file')} admits only callers with the token"
            )
            if self.model_control is ModelControl.ON:
                yield f"and anyone may unload its models: see {flag_of('model_control')}"
        elif self.token_file is not None and not self.speaks_tls:
            yield (
                f"the token is sent unencrypted to {host}: {flag_of('tls_cert')} and "
                f"{flag_of('tls_key')} encrypt it"
            )

    def lets_models_be_controlled(self, host: str) -> bool:
        """Return whether callers of a server at that address may load and unload its models."""
        if self.model_control is not ModelControl.AUTO:
            return self.model_control is ModelControl.ON
        has_key = self.token_file is not None or self.tls_client_ca is not None
        return has_key or is_loopback(host)

    @property
    def request_pixels(self) -> int:
        """Return the pixel limit for all images of a request: at least that of one image."""
        return max(self.max_request_pixels, self.max_pixels)

    @property
    def body_memory(self) -> int:
        """Return the byte limit for the bodies of all requests: at least that of one request.

        A gRPC call counts with its headers.
        """
        if self.max_body_memory is None:
            return max(_LARGEST_BODIES * self.max_request_bytes, _CALL_BYTES)
        return max(self.max_body_memory, self.max_request_bytes + _CALL_BYTES)

    @property
    def queue_bytes(self) -> int:
        """Return the byte limit for the requests that wait: by default an eighth of the memory."""
        if self.max_queue_bytes is not None:
            return self.max_queue_bytes
        from mlserve.system import usable_memory  # not needed by `predict`, which imports this

        return max(1, usable_memory() // _QUEUES_IN_MEMORY)

    @property
    def shares(self) -> dict[str, float]:
        """Return the most that tokens may use of the server's time, above 0 to 1, by their name."""
        return {} if self.max_share is None else shares_in(self.max_share)

    @property
    def rollout(self) -> RolloutOptions:
        """Return what is said of a second version of the server's only model."""
        return RolloutOptions(self.shadow, self.shadow_token_file, self.split)

    @property
    def image_limits(self) -> ImageLimits:
        """Return the limits on one image."""
        return ImageLimits(self.max_pixels, self.max_side, self.max_scans, self.max_decode_bytes)

    @property
    def expanded_bytes(self) -> int:
        """Return the bytes that repeated last values may add to the tensors of one request."""
        return self.body_memory // _LARGEST_BODIES

    @property
    def speaks_tls(self) -> bool:
        """Return whether both ports use TLS."""
        return self.tls_cert is not None

    def absolute(self) -> ServerSettings:
        """Return the same settings with absolute paths."""
        paths: dict[str, Any] = {
            name: expanded(value).absolute()
            for name, value in asdict(self).items()
            if isinstance(value, Path)
        }
        return replace(self, **paths)


def is_loopback(host: str) -> bool:
    """Return whether a server at that address is reachable from this machine only."""
    from ipaddress import ip_address  # not needed by `predict`, which imports this module

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


AUTO, EMBEDDED, NATIVE, DOCKER = "auto", "embedded", "native", "docker"
"""mlserve's own launchers: its own server, the runtime's own (third-party) server, a container, or
(auto) whichever of the first two fits. Others are plugins (`mlserve.launcher`)."""
OWN_LAUNCHERS = (AUTO, EMBEDDED, NATIVE, DOCKER)
DEFAULT_BACKEND = "tfserving"
DEFAULT_HOST = "127.0.0.1"
READY_WITHIN = 120.0
"""Seconds that `mlserve up` waits for a server to be ready."""
GRPC_PORT = 8500
REST_PORT = 8501
"""The default ports of a server, and its ports inside every container."""
_LARGEST_BODIES = 8
_QUEUES_IN_MEMORY = 8
_CALL_BYTES = 64 * 2**10
"""An upper bound of what the server counts for a call besides its message."""
_NEEDS = (
    *(("tls_key", "tls_cert"), ("tls_cert", "tls_key"), ("tls_client_ca", "tls_cert")),
    ("max_share", "token_file"),
    ("record_bodies", "record"),
)
"""Settings that require another one."""
DEFAULT_SETTINGS = ServerSettings()
