"""Word hints: name settings as the reader writes them, and suggest the nearest name."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SETTING = re.compile(r"\{([a-z_]+)(?: ([^{}\s]+))?\}")
_PYTHON = {
    "tls_ca": "tls=Tls(ca={})",
    "tls_cert": "tls=Tls(cert={})",
    "tls_pair": "tls=Tls(cert=..., key=...)",
    "token_file": "token=...",
    "max_attempts": "retries=Retries({})",
    "no_throttle": "throttle=False",
}
"""The settings whose Python argument has another name."""
_FLAGS = {"tls_pair": "--tls-cert FILE and --tls-key FILE"}
"""The settings whose flag has another name."""
_speaks_flags = False


def speak_flags() -> None:
    """Make hints name flags from now on; called by the `main` of a command."""
    global _speaks_flags  # noqa: PLW0603  it is a fact about the process
    _speaks_flags = True


def said(hint: str) -> str:
    """Return the hint with each setting named as the reader of this process writes it."""
    return _SETTING.sub(lambda found: _called(found[1], found[2]), hint)


def _called(name: str, value: str | None) -> str:
    if _speaks_flags:
        flag = _FLAGS.get(name) or "--" + name.replace("_", "-")
        return f"{flag} {value}" if value else flag
    if name in _PYTHON:
        return _PYTHON[name].format(value or "...")
    if value is None:
        return name
    is_plain = value.isupper() or value.replace(".", "").isdecimal()
    return f"{name}={value}" if is_plain else f'{name}="{value}"'


_LIKENESS = 0.7
"""difflib's ratio, 0 to 1; a word of four with two letters swapped has 0.75."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that `word` was probably meant to be, or None.

    A part is enough: `onnx` matches `onnxruntime`, if no other name contains it.
    """
    from difflib import get_close_matches  # most runs contain no misspelt word

    names = {name.lower(): name for name in known}
    asked = word.lower()
    close = get_close_matches(asked, names, n=1, cutoff=_LIKENESS)
    if close:
        return names[close[0]]
    parts = [name for lower, name in names.items() if _is_part(asked, lower)]
    return parts[0] if len(parts) == 1 else None


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """Return `did you mean NAME? ` for the start of a hint, `before` in front of NAME; else ""."""
    name = nearest(word, known)
    return "" if name is None else f"did you mean {before}{name}? "


def _is_part(asked: str, name: str) -> bool:
    shortest = 2
    return min(len(asked), len(name)) >= shortest and (asked in name or name in asked)
