"""The addresses of files and folders on other machines, and what of them may be shown."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from mlserve.errors import ExportError, UsageError, shortened
from mlserve.hints import did_you_mean

SCHEMES = ("https", "http", "s3", "gs", "hf", "models", "runs")
_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(models|runs):/")
_PIN = re.compile(r"#sha256=([^#]*)$")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN = {"download", "raw", "dl", "version", "versionid", "generation", "ref", "revision"}
"""Parameters of a query whose values are no secrets; every other value is shown as `...`."""
_SIGNING = re.compile(
    r"x-(amz|goog)-.*|signature|expires|awsaccesskeyid|googleaccessid|key-pair-id|policy"
    r"|sig|se|sp|sv|sr|st|spr|skoid|sktid|skt|ske|sks|skv",
    re.IGNORECASE,
)
"""Parameters of signed addresses (Amazon S3, Google Cloud, CloudFront, Azure).

They change each time that the same file is signed, so that the cache leaves them out.
"""


def is_remote(text: str) -> bool:
    """Return whether the text is an address, and not a path on this machine."""
    return _REMOTE.match(text) is not None


@dataclass(frozen=True, slots=True)
class Address:
    """Where a file or a folder is, as the user gave it.

    `text` is the address without the digest; it may hold credentials, so it is sent and never
    shown. `digest` is the SHA-256 in hexadecimal that the content must have, if the user gave one.
    """

    scheme: str
    text: str
    digest: str | None = None

    @classmethod
    def parse(cls, text: str, digest: str | None = None) -> Address:
        """Read an address, with or without `#sha256=HEX` at its end. Raises UsageError."""
        pin = _PIN.search(text)
        plain = text[: pin.start()] if pin else text
        scheme = plain.partition(":")[0].lower()
        if scheme not in SCHEMES:
            raise UsageError(
                f"{_shown(plain)}: mlserve fetches nothing from {scheme}://",
                hint=f"{did_you_mean(scheme, SCHEMES)}it knows {', '.join(SCHEMES)}; give the path "
                "of a file on this machine as it is",
            )
        pins = {parse_digest(given) for given in (pin and pin[1], digest) if given is not None}
        if len(pins) > 1:
            raise UsageError(
                f"{_shown(plain)} was given with two digests: {' and '.join(sorted(pins))}",
                hint="give one: --sha256 HEX, or #sha256=HEX at the end of the address",
            )
        address = cls(scheme, scheme + plain[len(scheme) :], next(iter(pins), None))
        address._require_valid()
        return address

    @property
    def shown(self) -> str:
        """Return the address for messages and manifests, without anything that may be a secret."""
        return _shown(self.text)

    @property
    def key(self) -> str:
        """Return the name of its place in the cache: the same for each signature of one file.

        Where the environment names the server, each server has places of its own.
        """
        parts = urlsplit(self.text)
        query = [
            pair for pair in parse_qsl(parts.query, keep_blank_values=True) if not _is_signing(pair)
        ]
        host = parts.netloc.rpartition("@")[2]
        path = parts.path if self.scheme in {"http", "https"} else parts.path.rstrip("/")
        plain = urlunsplit((parts.scheme, host, path, urlencode(query), parts.fragment))
        servers = [os.environ.get(variable, "") for variable in _SERVERS.get(self.scheme, ())]
        whole = "\n".join((plain, *servers))
        return sha256(whole.encode(errors="surrogateescape")).hexdigest()[:32]

    @property
    def name(self) -> str:
        """Return the last part of its path: what the local file or folder is called."""
        path = self.text.partition("?")[0].rstrip("/")
        if self.scheme in {"http", "https"}:
            parts = urlsplit(path)
            path = unquote(parts.path).rstrip("/") or parts.hostname or self.scheme
        return path.rpartition("/")[2]

    def _require_valid(self) -> None:
        try:
            parts = urlsplit(self.text)
            _ = parts.port
        except ValueError as error:
            raise UsageError(f"{self.shown} is not a valid address", hint=_SPELLING) from error
        if self.scheme not in {"models", "runs"} and not parts.hostname:
            raise UsageError(
                f"{self.shown} is not a valid address: it names no "
                f"{_HOSTS.get(self.scheme, 'server')}",
                hint="check the spelling",
            )
        if self.scheme not in {"http", "https"} and "@" in parts.netloc:
            raise UsageError(
                f"{self.shown}: an address of {self.scheme}:// takes no user name or password",
                hint="give credentials in the way of its library; docs/sources.md lists them",
            )
        if parts.fragment and self.scheme in {"http", "https"}:
            raise UsageError(
                f"{self.shown}: what follows # is not understood",
                hint="only #sha256=HEX is; write %23 for a # in the name of a file",
            )


_SERVERS = {
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    "gs": ("STORAGE_EMULATOR_HOST",),
    "hf": ("HF_ENDPOINT",),
    "models": ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"),
    "runs": ("MLFLOW_TRACKING_URI",),
}
"""The variables that say which server an address of that scheme is asked of."""
_SPELLING = (
    "check the host and the port; in a user name or password, write / as %2F, ? as %3F, # as %23 "
    "and [ as %5B"
)
_HOSTS = {"s3": "bucket", "gs": "bucket", "hf": "organization"}


def parse_digest(text: str) -> str:
    """Return a SHA-256 in hexadecimal, given with or without `sha256:`. Raises UsageError."""
    digest = text.strip().lower().removeprefix("sha256:")
    if _DIGEST.fullmatch(digest) is None:
        raise UsageError(
            f"{shortened(text, 80)!r} is not a SHA-256 digest",
            hint="give its 64 hexadecimal digits, as `sha256sum FILE` prints them",
        )
    return digest


def safe_name(name: str, owner: str) -> str:
    """Return a relative path that a server gave, if it stays in the folder it is put in.

    Raises ExportError, naming `owner`, for one that would lead out of it or cannot be printed.
    """
    if not name.isprintable():
        raise ExportError(
            f"{owner} names a file '{shortened(name)}', which has characters that cannot be "
            "printed",
            hint="nothing was kept; tell whoever runs that server",
        )
    parts = name.split("/")
    is_safe = all(parts) and not {".", ".."} & set(parts) and "\\" not in name
    if is_safe and not PurePosixPath(name).is_absolute():
        return name
    raise ExportError(
        f"{owner} names a file {shortened(name)!r}, which would lie outside its folder",
        hint="nothing was kept; tell whoever runs that server",
    )


def _shown(text: str) -> str:
    try:
        parts = urlsplit(text)
        _ = parts.port  # what is not a number may be a password, cut at a / that it has
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:  # nothing of it is known to be harmless
        return shortened(text.partition(":")[0]) + "://..."
    host = parts.netloc.rpartition("@")[2]
    values = "&".join(map(_shown_pair, query))
    separator = "" if parts.scheme in {"models", "runs"} and not host else "//"
    plain = f"{parts.scheme}:{separator}{host}{parts.path}"
    return shortened(f"{plain}?{values}" if values else plain, 500)


def _shown_pair(pair: tuple[str, str]) -> str:
    key, value = pair
    if key.lower() in _SHOWN:
        return f"{key}={value}"
    return f"{key}=..." if value else "..."  # without a value, the name itself may be a secret


def _is_signing(pair: tuple[str, str]) -> bool:
    return _SIGNING.fullmatch(pair[0]) is not None
