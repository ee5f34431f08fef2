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
from types import NoneType
from typing import Any, get_args, get_type_hints

from mlserve.deadline import check_seconds
from mlserve.errors import UsageError, bounded
from mlserve.images import MAX_DECODE_BYTES, MAX_PIXELS, MAX_SCANS, MAX_SIDE, ImageLimits


class HelpPanel(StrEnum):
    """What a setting is about: a heading in `mlserve up --help`."""

    LOAD = "Under load"
    LIMITS = "Limits"
    ACCESS = "Access"
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


def _about(
    panel: HelpPanel, text: str, *, unit: str = "", least: float | None = None, chosen: str = ""
) -> dict[str, Any]:
    """What is known of a setting beside its name and type.

    `chosen` puts into words what the server chooses where the default is None.
    """
    return {"panel": panel, "text": text, "unit": unit, "least": least, "chosen": chosen}


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of one server. Times are seconds; None leaves the choice to the server.

    Raises UsageError for a value below its least.
    """

    max_queue: int | None = field(
        default=None,
        metadata=_about(
            HelpPanel.LOAD,
            "The most requests that may wait.",
            unit="requests",
            least=0,
            chosen="16 for each thread",
        ),
    )
    default_timeout: float = field(
        default=30.0,
        metadata=_about(
            HelpPanel.LOAD,
            "Deadline of a request that does not set one, in seconds.",
            unit="seconds",
            least=0.001,
        ),
    )
    drain_timeout: float = field(
        default=10.0,
        metadata=_about(
            HelpPanel.LOAD,
            "Seconds that the requests in flight have to finish when the server is told to stop.",
            unit="seconds",
            least=0,
        ),
    )
    max_batch_size: int = field(
        default=1,
        metadata=_about(
            HelpPanel.LOAD,
            "The most requests to run together as one batch. 1 turns batching off.",
            unit="requests",
            least=1,
        ),
    )
    max_batch_delay: float = field(
        default=0.005,
        metadata=_about(
            HelpPanel.LOAD, "Seconds that a batch waits for more requests.", unit="seconds", least=0
        ),
    )
    max_request_bytes: int = field(
        default=64 * 2**20,
        metadata=_about(
            HelpPanel.LIMITS,
            "The largest request, in bytes, on gRPC and REST.",
            unit="bytes",
            least=1,
        ),
    )
    max_body_memory: int | None = field(
        default=None,
        metadata=_about(
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
        metadata=_about(
            HelpPanel.LIMITS, "The most pixels of one image, by its header.", unit="pixels", least=1
        ),
    )
    max_request_pixels: int = field(
        default=400_000_000,
        metadata=_about(
            HelpPanel.LIMITS,
            "The most pixels of all images of one request; never less than --max-pixels.",
            unit="pixels",
            least=1,
        ),
    )
    max_side: int = field(
        default=MAX_SIDE,
        metadata=_about(
            HelpPanel.LIMITS,
            "The largest width and the largest height of an image, in pixels.",
            unit="pixels",
            least=1,
        ),
    )
    max_scans: int = field(
        default=MAX_SCANS,
        metadata=_about(
            HelpPanel.LIMITS,
            "The most scans of one JPEG. A progressive one has 6 to 25.",
            unit="scans",
            least=1,
        ),
    )
    max_decode_bytes: int = field(
        default=MAX_DECODE_BYTES,
        metadata=_about(
            HelpPanel.LIMITS,
            "The most bytes that the decoder of one image works on: what the file decompresses "
            "to, and three for each pixel.",
            unit="bytes",
            least=1,
        ),
    )
    max_batch_length: int = field(
        default=1024,
        metadata=_about(
            HelpPanel.LIMITS,
            "The most elements of a request's inputs along the batch dimension.",
            unit="elements",
            least=1,
        ),
    )
    max_json_depth: int = field(
        default=64,
        metadata=_about(
            HelpPanel.LIMITS,
            "The most levels of nesting in a request's JSON.",
            unit="levels",
            least=1,
        ),
    )
    header_timeout: float = field(
        default=10.0,
        metadata=_about(
            HelpPanel.LIMITS,
            "Seconds within which the headers of a request must arrive.",
            unit="seconds",
            least=0.001,
        ),
    )
    max_connections: int = field(
        default=1000,
        metadata=_about(
            HelpPanel.LIMITS,
            "The most connections to one port at the same time.",
            unit="connections",
            least=1,
        ),
    )
    token_file: Path | None = field(
        default=None,
        metadata=_about(HelpPanel.ACCESS, "File with the token that every request must send."),
    )
    tls_cert: Path | None = field(
        default=None,
        metadata=_about(
            HelpPanel.ACCESS, "PEM file with the server's certificate. Both ports then speak TLS."
        ),
    )
    tls_key: Path | None = field(
        default=None,
        metadata=_about(HelpPanel.ACCESS, "PEM file with the private key of that certificate."),
    )
    tls_client_ca: Path | None = field(
        default=None,
        metadata=_about(
            HelpPanel.ACCESS,
            "PEM file with the authority (CA) that must have signed each client's certificate.",
        ),
    )
    model_control: ModelControl = field(
        default=ModelControl.AUTO,
        metadata=_about(
            HelpPanel.ACCESS,
            "Whether requests may load and unload models: on, off, or auto: where a token or "
            "client certificate is required, else on loopback only.",
        ),
    )
    allow_unsafe_ops: bool = field(
        default=False,
        metadata=_about(
            HelpPanel.ACCESS,
            "Serve SavedModels whose graph can read and write files, or run Python: only if you "
            "trust whoever made them.",
        ),
    )
    log_format: LogFormat = field(
        default=LogFormat.TEXT,
        metadata=_about(HelpPanel.LOGS, "Format of the server's log: text or json."),
    )
    log_requests: LogRequests | None = field(
        default=None,
        metadata=_about(
            HelpPanel.LOGS,
            "Which requests the log shows: all, errors or none.",
            chosen="errors in a text log, all in a JSON log",
        ),
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            self._check(item, getattr(self, item.name))
        for name, needed in _NEEDS:
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise UsageError(
                    f"{flag_of(name)} needs {flag_of(needed)}", hint="give both, or neither"
                )

    def exposure(self, host: str) -> Iterator[str]:
        """What is risky in listening on that address with these settings: sentences."""
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
        """Whether callers of a server at that address may load and unload its models."""
        if self.model_control is not ModelControl.AUTO:
            return self.model_control is ModelControl.ON
        has_key = self.token_file is not None or self.tls_client_ca is not None
        return has_key or is_loopback(host)

    def _check(self, item: Field[Any], value: Any) -> None:
        least = item.metadata["least"]
        if least is None or value is None:
            return
        kind, flag = _KINDS[item.name], flag_of(item.name)
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
    text: str
    unit: str = ""
    least: float | None = None
    chosen: str = ""
    """What the server chooses where `default` is None."""

    @property
    def help(self) -> str:
        """What the setting is for, and its default where that is not a value."""
        return f"{self.text} Default: {self.chosen}." if self.chosen else self.text

    @property
    def metavar(self) -> str | None:
        """What the help calls a value; None for a choice, which lists its own."""
        if self.kind is Path:
            return "FILE"
        return self.unit.upper() or None

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
        yield Description(item.name, _KINDS[item.name], item.default, **item.metadata)


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
_NEEDS = (("tls_key", "tls_cert"), ("tls_cert", "tls_key"), ("tls_client_ca", "tls_cert"))
"""Settings that mean something only with another one."""
_KINDS: dict[str, type] = {
    name: next(kind for kind in get_args(hint) or (hint,) if kind is not NoneType)
    for name, hint in get_type_hints(ServerSettings).items()
}
"""The type of each setting, without its None."""
DEFAULT_SETTINGS = ServerSettings()
_DEFAULTS = asdict(DEFAULT_SETTINGS)
