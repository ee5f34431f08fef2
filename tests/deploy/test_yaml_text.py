"""What is written as YAML comes back from a reader of YAML, whatever the texts are."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve.deploy.yaml_text import Noted, Raw, When, yaml_text

_TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    st.sampled_from(
        ["yes", "No", "~", "null", "1e3", "0x1f", "012", "1_000", "12:30:00", "2026-11-27", ".inf",
         "=", "<<", "- a", "a: b", "a #b", "#a", "&a", "*a", "!a", "%a", "@a", "`a", "{a", "[a",
         "line\nline\n", " line\n", "a\n\n", "\n", "a\tb\n", "a:", "true", "x\u2028y", "\x85", ""]
    ),
)  # fmt: skip
_DATA = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), _TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(_TEXTS, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_TEXTS, _DATA, min_size=1, max_size=4))
def test_data_comes_back(data: dict[str, Any]) -> None:
    assert yaml.safe_load(yaml_text(data)) == data


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(_TEXTS, _DATA, min_size=1, max_size=4), st.text(max_size=200))
def test_comments_change_no_data(data: dict[str, Any], note: str) -> None:
    note = note.encode("ascii", "ignore").decode().replace("\0", "")
    note = "".join(character for character in note if character.isprintable() or character == "\n")
    noted = {key: Noted(value, note) for key, value in data.items()}

    assert yaml.safe_load(yaml_text(noted, note)) == data


def test_a_comment_stands_above_its_value() -> None:
    data = {"ports": [Noted({"name": "rest", "port": 1}, "why\nindeed")], "empty": []}

    assert yaml_text(data, "head") == (
        "# head\nports:\n  # why\n  # indeed\n  - name: rest\n    port: 1\nempty: []\n"
    )


def test_expressions_of_templates_are_written_as_they_are() -> None:
    data = {"a": Raw("{{ .Values.a }}"), "b": When(1, "not .Values.a"), "c": "{{ .Values.c }}"}

    assert yaml_text(data) == (
        'a: {{ .Values.a }}\n{{- if not .Values.a }}\nb: 1\n{{- end }}\nc: "{{ .Values.c }}"\n'
    )


def test_what_is_not_data_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be written"):
        yaml_text({"a": object()})
