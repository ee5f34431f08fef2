"""The forms of Envoy's configuration that appear again and again."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_TYPES = "type.googleapis.com/envoy"


def typed(name: str, /, **fields: Any) -> Json:
    """Return a message of Envoy's that says its own type: `extensions.filters.http...`."""
    return {"@type": f"{_TYPES}.{name}", **fields}


def extension(name: str, config: Json) -> Json:
    """Return the use of an extension."""
    return {"name": name, "typed_config": config}


def socket(host: str, port: int) -> Json:
    """Return the address of a port."""
    return {"socket_address": {"address": host, "port_value": port}}


def pipe(path: str, mode: int | None = None) -> Json:
    """Return the address of a UNIX socket."""
    return {"pipe": {"path": path} if mode is None else {"path": path, "mode": mode}}


def seconds(value: float) -> str:
    """Return a duration as Envoy reads it: `0.250s`."""
    return f"{value:.3f}s"


def put(key: str, value: str) -> Json:
    """Return a mutation that sets a header, unless the value is empty."""
    action = "OVERWRITE_IF_EXISTS_OR_ADD"
    return {"append": {"header": {"key": key, "value": value}, "append_action": action}}
