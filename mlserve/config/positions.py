"""The line and column of every key and value in a TOML text.

tomllib gives the values without their places. So the text is parsed a second time, by tree-sitter,
but only when a place is to be shown: for an error, or by `mlserve config show`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

Keys = tuple[str | int, ...]
"""The way to a value: names of tables and keys, and indices of arrays from 0."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a text; both count from 1, columns in characters."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Entry:
    """The places of a key and of its value. A table's value is the header that begins it."""

    key: Position
    value: Position


def entries_of(text: str) -> dict[Keys, Entry]:
    """Return the places of all keys of a valid TOML text.

    Of a table with several headers, the first counts.
    """
    source = text.encode()
    lines = source.split(b"\n")
    parser = Parser(Language(tree_sitter_toml.language()))
    found: dict[Keys, Entry] = {}
    for keys, key, value in _walk(parser.parse(source).root_node):
        found.setdefault(keys, Entry(_position(key, lines), _position(value, lines)))
    return found


_Found = tuple[Keys, Node, Node]


def _walk(document: Node) -> Iterator[_Found]:
    lengths: dict[Keys, int] = {}
    """How many tables each array of tables has so far."""
    for child in document.named_children:
        if child.type == "pair":
            yield from _pair((), child, lengths)
        elif child.type in ("table", "table_array_element"):
            yield from _table(child, lengths)


def _table(table: Node, lengths: dict[Keys, int]) -> Iterator[_Found]:
    header, *pairs = table.named_children
    base: Keys = ()
    names = list(_names(header))
    for node, name in names:
        base = _inside((*base, name), lengths)
        yield base, node, table
    if table.type == "table_array_element":
        array = _parent(base) if isinstance(base[-1], int) else base
        lengths[array] = lengths.get(array, 0) + 1
        base = _inside(array, lengths)
        yield base, names[-1][0], table
    for pair in pairs:
        if pair.type == "pair":
            yield from _pair(base, pair, lengths)


def _inside(keys: Keys, lengths: dict[Keys, int]) -> Keys:
    """Return the way to the last table of an array of tables, or `keys` for anything else."""
    return (*keys, lengths[keys] - 1) if keys in lengths else keys


def _parent(keys: Keys) -> Keys:
    return keys[:-1]


def _pair(base: Keys, pair: Node, lengths: dict[Keys, int]) -> Iterator[_Found]:
    key, value = (node for node in pair.named_children if node.type != "comment")
    for node, name in _names(key):
        base = (*base, name)
        yield base, node, value
    yield from _value(base, value, lengths)


def _value(base: Keys, value: Node, lengths: dict[Keys, int]) -> Iterator[_Found]:
    items = [node for node in value.named_children if node.type != "comment"]
    if value.type == "inline_table":
        for pair in items:
            yield from _pair(base, pair, lengths)
    elif value.type == "array":
        for index, item in enumerate(items):
            yield (*base, index), item, item
            yield from _value((*base, index), item, lengths)


def _names(key: Node) -> Iterator[tuple[Node, str]]:
    """Yield the parts of a dotted key with their names."""
    if key.type == "dotted_key":
        for part in key.named_children:
            yield from _names(part)
    else:
        text = (key.text or b"").decode()
        yield key, next(iter(tomllib.loads(f"{text} = 0")))


def _position(node: Node, lines: list[bytes]) -> Position:
    row, column = node.start_point
    return Position(row + 1, len(lines[row][:column].decode()) + 1)
