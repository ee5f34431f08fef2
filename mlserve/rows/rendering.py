"""Outputs as data and as text: plain lists, the shortest digits of a float, one cell of a table."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable
from typing import Any

from mlserve.rows.cells import BYTES_KEY
from mlserve.tensors import DType, TensorSpec

_PACKED = {DType.FLOAT32: "f", DType.FLOAT16: "e", DType.BFLOAT16: "f"}
_MOST_DIGITS = 9
"""Decimal digits that tell any two float32 apart (IEEE 754)."""


def json_value(value: Any, spec: TensorSpec | None) -> Any:
    """Return an output as lists and values that JSON can hold.

    A float32 has the digits that tell it apart from its neighbours, and no more: 0.1, not
    0.10000000149011612. Bytes that are not UTF-8 become {"b64": ...}.
    """
    shorten = _shortener(spec)
    return _plain(value.tolist() if hasattr(value, "tolist") else value, shorten)


def cell_text(value: Any) -> str:
    """Return a plain value as one cell of a table; lists are JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, float | int):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any, shorten: Callable[[float], float]) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item, shorten) for item in value]
    if isinstance(value, float):
        return shorten(value)
    if isinstance(value, complex):
        return [shorten(value.real), shorten(value.imag)]
    return _text(value) if isinstance(value, bytes | str) else value


def _text(value: bytes | str) -> Any:
    """Return text; {"b64": ...} for bytes that are not UTF-8, also behind surrogates."""
    raw = value if isinstance(value, bytes) else value.encode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {BYTES_KEY: base64.b64encode(raw).decode()}


def _shortener(spec: TensorSpec | None) -> Callable[[float], float]:
    code = None if spec is None else _PACKED.get(spec.dtype)
    if code is None:
        return float
    pack = struct.Struct(code).pack

    def is_same(short: float, packed: bytes) -> bool:
        try:
            return pack(short) == packed
        except OverflowError:
            return False  # rounding to fewer digits made it too large

    def shorten(value: float) -> float:
        if not math.isfinite(value):
            return value
        packed = pack(value)
        found = value
        for digits in range(_MOST_DIGITS, 5, -1):  # most numbers that are computed need many
            short = float(f"{value:.{digits}g}")
            if not is_same(short, packed):
                break
            found = short
        return found

    return shorten
