"""Long strings that are taken out before a JSON text is parsed change nothing of what it says."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest

from mlserve.errors import InvalidInput
from mlserve.server.codec.json_cut import cut_strings
from mlserve.server.codec.rapidjson import parse_body

LONG = base64.b64encode(random.Random(0).randbytes(6000)).decode()
MOST = 2**17


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{"b64": LONG}]},
        {"signature_name": "s", "inputs": {"a": [LONG, 1, None, LONG[:3000]], "b": "short"}},
        {"inputs": [LONG] * 100},
    ],
)
def test_the_strings_come_back_to_their_places(body: dict[str, Any]) -> None:
    text = json.dumps(body, indent=1)
    cut = cut_strings(text, MOST)
    assert cut is not None
    assert len(cut.rest) < len(text) / 2
    assert parse_body(text, max_depth=10) == body
    assert cut.place_of(len(cut.rest)) == len(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "short"}',
        json.dumps({"a": LONG + "\n"}),
        json.dumps({"a": LONG + "\u00e4"}, ensure_ascii=False),
        f'{{"a": "{LONG}\n"}}',
        f'{{"{LONG}": 1}}',
        f'{{"a": "{LONG}',
        f'{{"a": "{LONG}"',
        json.dumps({"inputs": [*["x"] * 1000, LONG]}),
        json.dumps({"a": LONG, "b": [1.5] * MOST}),
    ],
    ids=[
        "nothing long",
        "an escape",
        "other than ASCII",
        "a raw line end",
        "a name",
        "no end",
        "nothing behind it",
        "many strings",
        "much besides",
    ],
)
def test_what_is_left_to_the_parser(text: str) -> None:
    assert cut_strings(text, MOST) is None


def test_what_stands_for_a_string_cannot_be_sent() -> None:
    """A text with an escape is not cut, so that no mark is mistaken for a long string."""
    body = {"a": "\x000", "b": LONG}
    assert parse_body(json.dumps(body), max_depth=10) == body


@pytest.mark.parametrize("fault", [", }", "]", " 1"])
def test_a_fault_is_told_where_it_is_in_the_whole_text(fault: str) -> None:
    text = f'{{"a": "{LONG}"{fault}'
    with pytest.raises(InvalidInput) as refused:
        parse_body(text, max_depth=10)
    assert f"char {text.index(fault) + len(fault) - 1}" in refused.value.message


def test_what_follows_the_object_is_found_behind_a_long_string() -> None:
    text = json.dumps({"a": LONG})
    assert parse_body(text + " more", max_depth=10) == {"a": LONG}
    with pytest.raises(InvalidInput, match=f"offset: {len(text)} "):
        parse_body(text + " more", max_depth=10, ignores_rest=False)
