"""How a server of ours serves: each setting once, with its default, its limits and its help.

`mlserve up` has an option for each, the server process a flag, and its metadata shows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import Field, asdict, dataclass, field, fields, replace
from enum import StrEnum
from numbers import Real
from pathlib import Path
from typing import Any

from mlserve.deadline import check_seconds
from mlserve.errors import UsageError, bounded
from mlserve.images import MAX_DECODE_BYTES, MAX_PIXELS, MAX_SCANS, MAX_SIDE, ImageLimits


class HelpPanel(StrEnum):
    """What a setting is about: a heading in `mlserve up --help`."""

    LOAD = "Under load"
    LIMITS = "Limits"
    ACCESS = "Who may ask"
    LOGS = "Logs"


class LogFormat(StrEnum):
    """How the server writes its log: a line of words, or one JSON object a line."""

    TEXT = "text"
    JSON = "json"


class LogRequests(StrEnum):
    """Which requests have a line in the log; health checks and scrapes never have one."""

    ALL = "all"
    ERRORS = "errors"
    NONE = "none"


class ModelControl(StrEnum):
    """Who may load and unload models while the server runs.

    auto: whoever has the token or a certificate; where none is asked for, this machine alone.
    """

    AUTO = "auto"
    ON = "on"
    OFF = "off"


def _about(panel: HelpPanel, text: str, *, least: float | None = None) -> dict[str, Any]:
    return {"panel": panel, "help": text, "least": least}


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of one server. Times are seconds; None leaves the choice to the server.

    Raises UsageError for a value below its least.
    """

    max_queue: int | None = field(
        default=None,
        metadata=_about(
            HelpPanel.LOAD, "Requests that may wait; default: 16 for each thread.", least=0
        ),
    )
    default_timeout: float = field(
        default=30.0,
        metadata=_about(
            HelpPanel.LOAD, "Deadline of a request that brings none, in seconds.", least=0.001
        ),
    )
    drain_timeout: float = field(
        default=10.0,
        metadata=_about(
            HelpPanel.LOAD, "Seconds for the requests in flight when it is told to stop.", least=0
        ),
    )
    max_batch_size: int = field(
        default=1,
        metadata=_about(
            HelpPanel.LOAD, "Requests that run together as one batch; 1: no batching.", least=1
        ),
    )
    max_batch_delay: float = field(
        default=0.005,
        metadata=_about(HelpPanel.LOAD, "Seconds that a batch waits for more requests.", least=0),
    )
    max_request_bytes: int = field(
        default=64 * 2**20,
        metadata=_about(HelpPanel.LIMITS, "Bytes of one request, on gRPC and REST.", least=1),
    )
    max_body_memory: int | None = field(
        default=None,
        metadata=_about(
            HelpPanel.LIMITS,
            "Bytes that all requests together may hold while they arrive, are unpacked and are "
            "parsed; default: 8 times --max-request-bytes.",
            least=1,
        ),
    )
    max_pixels: int = field(
        default=MAX_PIXELS,
        metadata=_about(HelpPanel.LIMITS, "Pixels of one image, told from its header.", least=1),
    )
    max_request_pixels: int = field(
        default=400_000_000,
        metadata=_about(
            HelpPanel.LIMITS,
            "Pixels of all images of one request; never less than --max-pixels.",
            least=1,
        ),
    )
    max_side: int = field(
        default=MAX_SIDE,
        metadata=_about(
            HelpPanel.LIMITS, "Pixels of one image's width, and of its height.", least=1
        ),
    )
    max_scans: int = field(
        default=MAX_SCANS,
        metadata=_about(
            HelpPanel.LIMITS, "Scans of one JPEG; a progressive one has 6 to 25.", least=1
        ),
    )
    max_decode_bytes: int = field(
        default=MAX_DECODE_BYTES,
        metadata=_about(
            HelpPanel.LIMITS,
            "Bytes that the decoder of one image works on: what the file unpacks to, and three "
            "for each pixel.",
            least=1,
        ),
    )
    max_batch_length: int = field(
        default=1024,
        metadata=_about(
            HelpPanel.LIMITS,
            "Elements of a request's inputs in the dimension of the batch.",
            least=1,
        ),
    )
    max_json_depth: int = field(
        default=64,
        metadata=_about(HelpPanel.LIMITS, "Levels of nesting in a request's JSON.", least=1),
    )
    header_timeout: float = field(
        default=10.0,
        metadata=_about(
            HelpPanel.LIMITS, "Seconds for the headers of an HTTP request.", least=0.001
        ),
    )
    max_connections: int = field(
        default=1000,
        metadata=_about(HelpPanel.LIMITS, "Connections to one port at the same time.", least=1),
    )
    token_file: Path | None = field(
        default=None,
        metadata=_about(HelpPanel.ACCESS, "File with the token that every request must bring."),
    )
    tls_cert: Path | None = field(
        default=None,
        metadata=_about(
            HelpPanel.ACCESS, "PEM file with the server's certificate: both ports speak TLS."
        ),
    )
    tls_key: Path | None = field(
        default=None, metadata=_about(HelpPanel.ACCESS, "PEM file with the certificate's key.")
    )
    tls_client_ca: Path | None = field(
        default=None,
        metadata=_about(
            HelpPanel.ACCESS, "PEM file with the authority of the certificates that clients need."
        ),
    )
    model_control: ModelControl = field(
        default=ModelControl.AUTO,
        metadata=_about(
            HelpPanel.ACCESS,
            "Loading and unloading of models by request: on, off, or auto: where a token or "
            "a certificate is wanted, else on loopback only.",
        ),
    )
    allow_unsafe_ops: bool = field(
        default=False,
        metadata=_about(
            HelpPanel.ACCESS,
            "Serves SavedModels whose graph can read and write files, or run Python: for models "
            "of those you trust only.",
        ),
    )
    log_format: LogFormat = field(
        default=LogFormat.TEXT,
        metadata=_about(HelpPanel.LOGS, "How the server writes its log: text or json."),
    )
    log_requests: LogRequests | None = field(
        default=None,
        metadata=_about(
            HelpPanel.LOGS,
            "Requests in the log; default: errors in a text log, all in a JSON log.",
        ),
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            self._check(item, getattr(self, item.name))
        for name, needed in _NEEDS:
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise UsageError(
                    f"{flag_of(name)} needs {flag_of(needed)} beside it",
                    hint="give both, or neither",
                )

    def exposure(self, host: str) -> Iterator[str]:
        """What is risky in listening on that address with these settings: sentences."""
        if is_loopback(host):
            return
        if self.token_file is None and self.tls_client_ca is None:
            yield (
                f"the server listens on {host}, where everyone who reaches it may ask it: "
                f"{flag_of('token_file')} lets in only who has a token"
            )
            if self.model_control is ModelControl.ON:
                yield f"and everyone may unload its models: {flag_of('model_control')} auto"
        elif self.token_file is not None and not self.speaks_tls:
            yield (
                f"the token travels in clear text to {host}: {flag_of('tls_cert')} and "
                f"{flag_of('tls_key')} encrypt it"
            )

    def lets_models_be_controlled(self, host: str) -> bool:
        """Whether callers of a server at that address may load and unload its models."""
        if self.model_control is not ModelControl.AUTO:
            return self.model_control is ModelControl.ON
        has_key = self.token_file is not None or self.tls_client_ca is not None
        return has_key or is_loopback(host)

    def _check(self, item: Field[Any], value: Any) -> None:
        least = item.metadata["least"]
        if least is None or value is None:
            return
        kind, flag = _KINDS[str(item.type)], flag_of(item.name)
        is_number = isinstance(value, int if kind is int else Real) and not isinstance(value, bool)
        if not is_number or (isinstance(value, float) and not math.isfinite(value)):
            raise _not_a_value(flag, value, kind)
        if value < least:
            raise UsageError(
                f"{flag} must be at least {least:g}, not {bounded(f'{value}')}",
                hint="leave it out to take the default: "
                + ("chosen by the server" if item.default is None else str(item.default)),
            )
        if kind is float:
            check_seconds(flag, value)
        elif value > _MOST:
            raise UsageError(
                f"{flag} must be at most {_MOST}, not {bounded(str(value))}",
                hint="give a smaller number",
            )

    @property
    def request_pixels(self) -> int:
        """Pixels that all images of a request may have: never less than one image's most."""
        return max(self.max_request_pixels, self.max_pixels)

    @property
    def body_memory(self) -> int:
        """Bytes that the bodies of all requests may hold: never less than one request's most.

        A call over gRPC counts with its headers.
        """
        if self.max_body_memory is None:
            return max(_LARGEST_BODIES * self.max_request_bytes, _CALL_BYTES)
        return max(self.max_body_memory, self.max_request_bytes + _CALL_BYTES)

    @property
    def image_limits(self) -> ImageLimits:
        """What one image may be and cost."""
        return ImageLimits(self.max_pixels, self.max_side, self.max_scans, self.max_decode_bytes)

    @property
    def expanded_bytes(self) -> int:
        """Bytes that one tensor may have whose values were not all sent, but are the same."""
        return self.body_memory // _LARGEST_BODIES

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that are not the default ones."""
        return {name: value for name, value in asdict(self).items() if value != _DEFAULTS[name]}

    @property
    def speaks_tls(self) -> bool:
        """Whether both ports speak TLS."""
        return self.tls_cert is not None

    def absolute(self) -> ServerSettings:
        """The same settings with paths that hold in every folder."""
        paths: dict[str, Any] = {
            name: value.expanduser().absolute()
            for name, value in asdict(self).items()
            if isinstance(value, Path)
        }
        return replace(self, **paths)

    def argv(self) -> list[str]:
        """The flags of the server process that make these settings."""
        return [f"{flag_of(name)}={value}" for name, value in self.changed.items()]

    def to_json(self) -> dict[str, Any]:
        """All settings as data; `from_json` reads them."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ServerSettings:
        """The settings that `to_json` wrote; one that it does not name has its default."""
        named = {item.name: item for item in described()}
        return cls(**{k: named[k].read(v) for k, v in data.items() if k in named})


@dataclass(frozen=True, slots=True)
class Description:
    """A setting as an option: what a flag or a column is made from."""

    name: str
    kind: type
    default: Any
    panel: HelpPanel
    help: str

    @property
    def flag(self) -> str:
        """`--max-queue` for `max_queue`."""
        return flag_of(self.name)

    def read(self, value: Any) -> Any:
        """The value of the setting that a text or a JSON value stands for. Raises UsageError."""
        try:
            if self.kind is bool and isinstance(value, str):
                return _BOOLEANS[value.lower()]
            return None if value is None else self.kind(value)
        except (ValueError, TypeError, OverflowError, KeyError) as error:
            raise _not_a_value(self.flag, value, self.kind) from error


def described() -> Iterator[Description]:
    """Every setting, in the order of the panels."""
    for item in fields(ServerSettings):
        about = item.metadata
        yield Description(
            item.name, _KINDS[str(item.type)], item.default, about["panel"], about["help"]
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at that address."""
    from ipaddress import ip_address  # `predict` reads this module, and has no address to look at

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _not_a_value(flag: str, value: object, kind: type) -> UsageError:
    if issubclass(kind, StrEnum):
        takes = " or ".join(kind)
    else:
        takes = {int: "a whole number", float: "a number", bool: "true or false"}.get(
            kind, "a path"
        )
    shown = f"{value:g}" if isinstance(value, float) else value
    return UsageError(f"{str(shown)!r} is not a valid value of {flag}", hint=f"give {takes}")


def flag_of(name: str) -> str:
    """The flag of that setting."""
    return "--" + name.replace("_", "-")


_LARGEST_BODIES = 8
_CALL_BYTES = 64 * 2**10
"""More than the server counts for a call beside its message."""
_BOOLEANS = {"true": True, "false": False}
_MOST = 2**63 - 1
"""The largest number that a setting can be: what fits a signed number of 64 bits."""
_NEEDS = (
    ("tls_key", "tls_cert"),
    ("tls_cert", "tls_key"),
    ("tls_client_ca", "tls_cert"),
)
"""Settings that mean something only with another one."""
_KINDS: dict[str, type] = {
    "int": int,
    "int | None": int,
    "float": float,
    "bool": bool,
    "Path | None": Path,
    "ModelControl": ModelControl,
    "LogFormat": LogFormat,
    "LogRequests | None": LogRequests,
}
DEFAULT_SETTINGS = ServerSettings()
_DEFAULTS = asdict(DEFAULT_SETTINGS)
