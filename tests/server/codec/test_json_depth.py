"""How deep JSON is nested, told before it is parsed."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.errors import InvalidInput
from mlserve.server.body_memory import PIECE, UNBOUNDED
from mlserve.server.codec import json_outline
from mlserve.server.codec.json_outline import check_depth, depth_of, outline_of
from mlserve.server.codec.rapidjson import parse_body

LEAVES = st.none() | st.integers() | st.text('[]{}"\\a,é', max_size=5)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(st.text('[]{}"\\', max_size=3), inner),
    max_leaves=15,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(VALUES, st.booleans())
def test_the_depth_of_any_json(value: Any, is_ascii: bool) -> None:
    assert depth_of(json.dumps(value, ensure_ascii=is_ascii)) == depth(value)


@pytest.mark.parametrize("text", ["[" * 65, '{"a":' * 65, '[{"a":' * 33, '["]",' * 65])
def test_too_deep_names_the_flag(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"deeper than 64 levels.*--max-json-depth"):
        parse_body(text, max_depth=64)


@pytest.mark.parametrize("text", ["[]" * 1000, '"' + "[" * 1000 + '"', '"\\"' + "{" * 99 + '"', ""])
def test_wide_is_not_deep(text: str) -> None:
    check_depth(text, 64)


def test_a_limit_above_what_python_can_parse_is_still_an_error() -> None:
    with pytest.raises(InvalidInput, match="JSON Parse error"):
        parse_body('{"inputs": ' + "[" * 50_000, max_depth=10**6)


class _Counting:
    """numpy, counting the elements that its functions are given."""

    def __init__(self) -> None:
        self.elements = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found
        return found if isinstance(found, np.ufunc) else partial(self._called, found)

    def _called(self, function: Any, *arguments: Any, **named: Any) -> Any:
        self.elements += sum(item.size for item in arguments if isinstance(item, np.ndarray))
        return function(*arguments, **named)


def _work(text: str, most: int) -> int:
    """The elements and calls that the outline takes, if `most` levels could be parsed."""
    counting, calls = _Counting(), 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    with pytest.MonkeyPatch.context() as patched, suppress(InvalidInput):
        patched.setattr(json_outline, "np", counting)
        patched.setattr(json_outline, "sys", SimpleNamespace(getrecursionlimit=lambda: most))
        sys.setprofile(note)
        try:
            outline_of(text, UNBOUNDED, start=0, max_depth=10**6)
        finally:
            sys.setprofile(before)
    return counting.elements + calls


@pytest.mark.parametrize("opening", ["[", "[1,", '{"a":'])
@pytest.mark.parametrize("most", [10**6, 1000])
def test_twice_as_deep_is_twice_the_work(opening: str, most: int) -> None:
    """In one block, below the depth that can be parsed and above it."""
    depth = PIECE // len(opening) // 4
    once, twice = (_work('{"inputs": ' + opening * n, most) for n in (depth, 2 * depth))

    assert once < twice < 3 * once


def test_more_large_lists_in_each_other_than_can_be_parsed_are_refused_at_once() -> None:
    levels = sys.getrecursionlimit()
    deep = '{"inputs": ' + "[" * levels + "1," * PIECE

    with pytest.raises(InvalidInput, match=f"nested deeper than {levels} levels, the most"):
        parse_body(deep, max_depth=10**6)


@pytest.mark.parametrize("text", ["[" * 2**24, "[]" * 2**23, '"[",' * 2**22, '"' * 2**24])
def test_a_long_text_is_no_trouble(text: str) -> None:
    depth_of(text)
