"""The places of keys and values in TOML, against what tomllib reads."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve.config.positions import Keys, Position, entries_of

TEXT = """\
top = 1  # a comment
"quoted key" = [1, {z = 2}, [3]]
[servers.line]
port = 3
[servers.'x.y'.models.m]
text = \"\"\"
[not.a.table]
\"\"\"
after = 2020-01-01
inner = { a.b = 1, c = { d = 3 } }
[[list]]
k = 1
[list.below]
x = 1
[[list]]
k = 2
[[list.nested]]
k = 3
[servers]
"ü" = 1
dotted.key = 2
"""


def _ways(value: Any, way: Keys = ()) -> Iterator[Keys]:
    """Every way to a key of a parsed document."""
    if way:
        yield way
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _ways(inner, (*way, key))


def test_every_key_has_a_place() -> None:
    assert set(entries_of(TEXT)) == set(_ways(tomllib.loads(TEXT)))


def test_the_places() -> None:
    entries = entries_of(TEXT)
    assert entries["top",].key == Position(1, 1)
    assert entries["top",].value == Position(1, 7)
    assert entries["servers", "line", "port"].value == Position(4, 8)
    assert entries["servers", "x.y", "models", "m"].key == Position(5, 23)
    assert entries["servers", "x.y", "models", "m", "after"].key == Position(9, 1)
    assert entries["servers", "x.y", "models", "m", "inner", "c", "d"].value == Position(10, 30)
    assert entries["list", 1, "k"].key == Position(16, 1)
    assert entries["list", 1, "nested", 0, "k"].value == Position(18, 5)
    assert entries["servers", "ü"].value == Position(20, 7)
    assert entries["servers", "dotted", "key"].key == Position(21, 8)


_KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=6)
_SCALARS = st.sampled_from(
    ["1", "-0.5", "true", '"a # [b] \\" ="', "'''\nx = 1\n'''", "inf", "07:32:00", '"""\\"""a"""']
)


def _quoted(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + ",  # one\n".join(map(_inline, value)) + "\n]"
    return str(value)


_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3)
)
_TABLES = st.dictionaries(_KEYS, st.dictionaries(_KEYS, _VALUES, max_size=3), max_size=4)


@settings(max_examples=40)
@given(_TABLES)
def test_any_document(tables: dict[str, dict[str, Any]]) -> None:
    lines = []
    for name, table in tables.items():
        lines.append(f"  [{_quoted(name)}] # header")
        lines += [f"{_quoted(key)}   =  {_inline(value)}" for key, value in table.items()]
    text = "\n".join(lines)
    entries = entries_of(text)
    assert set(entries) == set(_ways(tomllib.loads(text)))
    for (*_, name), entry in entries.items():
        if isinstance(name, str):
            line = text.split("\n")[entry.key.line - 1]
            assert line[entry.key.column - 1 :].startswith(_quoted(name))
