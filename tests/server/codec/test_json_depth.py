"""How deep JSON is nested, told before it is parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.errors import InvalidInput
from mlserve.server.codec.json_outline import check_depth, depth_of
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


@pytest.mark.parametrize("text", ["[" * 2**24, "[]" * 2**23, '"[",' * 2**22, '"' * 2**24])
def test_a_long_text_is_no_trouble(text: str) -> None:
    depth_of(text)
