"""How a hint calls a setting: a flag on the command line, an argument in Python.

A hint names settings in braces: `{timeout}`, or with a value `{timeout 5}`. On the command line
that reads `--timeout 5`, in Python `timeout=5`; a value in capitals stands for any. A process has
one kind of readers: Python, unless its `main` has said otherwise.
"""

from __future__ import annotations

import re

_SETTING = re.compile(r"\{([a-z_]+)(?: ([^{}\s]+))?\}")
_PYTHON = {
    "tls_ca": "tls=Tls(ca={})",
    "tls_cert": "tls=Tls(cert={})",
    "tls_pair": "tls=Tls(cert=..., key=...)",
    "token_file": "token=...",
    "max_attempts": "retries=Retries({})",
}
"""The settings that are not an argument of the same name in Python."""
_FLAGS = {"tls_pair": "--tls-cert FILE and --tls-key FILE"}
"""The settings that are not a flag of the same name."""
_speaks_flags = False


def speak_flags() -> None:
    """Lets hints speak of flags from now on: called by the `main` of a command."""
    global _speaks_flags  # noqa: PLW0603  it is a fact about the process
    _speaks_flags = True


def said(hint: str) -> str:
    """The hint with each of its settings as this process's reader calls it."""
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
