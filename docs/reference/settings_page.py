"""settings.md: every setting of the server."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import Any

from page_blocks import link, plain, sentence, table, wrapped

from mlserve.options import Description, described
from mlserve.settings import ServerSettings

DETAILS = {
    "max_queue": "With 0, a request that cannot start at once is refused.",
    "max_queue_bytes": "The memory is the machine's, or what the cgroups of the server allow where "
    "that is less.",
    "max_batch_size": "How many batches run at once stays as the runtime says, where it does.",
    "max_batch_delay": "A batch never waits past the earliest deadline in it.",
    "max_request_bytes": "A request compressed with gzip or deflate must also fit once it is "
    "decompressed.",
    "max_body_memory": "What counts against it is in [serve.md](../serve.md#limits).",
    "max_pixels": "An image with more is never decoded, so a decompression bomb costs nothing.",
    "max_request_pixels": "An image that is repeated to fill a shape counts each time.",
    "max_side": "The default is the most that a JPEG can have.",
    "max_scans": "The decoder goes over the whole image for each scan.",
    "max_decode_bytes": "Why: [security.md](../security.md#what-an-image-may-cost).",
    "header_timeout": "This holds for both ports, and for a TLS handshake.",
    "max_connections": "Where the limit on open files allows fewer, the server takes fewer and "
    "says so in its log.",
    "token_file": "Health checks need no token. How to make one: "
    "[deploy.md](../deploy.md#tokens-and-tls). With several, each has a name: "
    "[serve.md](../serve.md#several-tokens).",
    "max_share": "Needs `--token-file`, which has the names: "
    "[serve.md](../serve.md#several-tokens).",
    "tls_cert": "Needs `--tls-key`.",
    "tls_key": "Needs `--tls-cert`.",
    "tls_client_ca": "Needs `--tls-cert`.",
    "page": "What they do: [page.md](../page.md). `--no-page` leaves them out.",
    "model_control": "The requests are in [open-inference.md](../open-inference.md#extensions).",
    "log_format": "`json` writes one object a line; [observability.md](../observability.md#log) "
    "lists its fields.",
    "log_requests": "Health checks and scrapes are never shown.",
    "record": "It is made for this user alone. What is kept is in [replay.md](../replay.md).",
    "record_bodies": "Needs `--record`.",
    "record_bytes": "All recordings in the folder count, also those of other servers. A body or an "
    "answer of more than a sixteenth of it is left out.",
    "otlp": "What is sent, and which variables hold: "
    "[observability.md](../observability.md#opentelemetry).",
}
"""What the page adds to the help of a setting."""


def blocks() -> Iterator[str]:
    """The blocks of the page, under its title."""
    yield wrapped(
        "Each setting is an option of `mlserve up`, a flag of `python -m mlserve.server`, and so "
        "an argument of `docker run` after an image of `mlserve build`. The server names its "
        "limits in its log and in `GET /v2`, and every refusal names the flag of its limit. Times "
        "are in seconds, at most 10^9. [serve.md](../serve.md) explains how the settings "
        "work together, [deploy.md](../deploy.md) how to put a server on a network."
    )
    yield table(
        ("setting", "default", "unit"),
        (
            (link(s.flag, f"`{s.flag}`"), _default(s), s.unit.replace("|", " or "))
            for s in described(ServerSettings)
        ),
    )
    for panel, settings in groupby(described(ServerSettings), key=lambda setting: setting.panel):
        yield f"## {panel.value}"
        for setting in settings:
            yield f"### {setting.flag}"
            yield wrapped(f"{sentence(setting.text)} {DETAILS.get(setting.name, '')}".rstrip())
            yield f"*{', '.join(filter(None, _facts(setting)))}*"


def _facts(setting: Description) -> Iterator[str]:
    if issubclass(setting.kind, Enum):
        yield "one of " + ", ".join(f"`{choice.value}`" for choice in setting.kind)
    elif setting.kind is bool:
        yield "a switch"
    elif setting.kind is Path:
        yield "a folder" if setting.metavar == "DIR" else "a file"
    else:
        yield setting.unit
    yield f"default {_default(setting)}"
    if setting.least is not None:
        yield f"at least {plain(setting.least)}{_in_words(setting.least, setting.unit)}"


def _default(setting: Description) -> str:
    value = setting.default
    if value is None:
        return sentence(setting.chosen) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{plain(value)}`{_in_words(value, setting.unit)}"


def _in_words(value: Any, unit: str) -> str:
    """A large number as people say it; nothing for a small one."""
    if unit == "bytes" and value and value % 2**20 == 0:
        return f" ({value // 2**20} MiB)"
    if isinstance(value, int) and value >= 10**6 and value % 10**6 == 0:
        return f" ({value // 10**6} million)"
    return ""
