"""What a token file and `--max-share` may say, and what is said of those that are wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.errors import UsageError
from mlserve.tokens import Token, shares_in, tokens_in

VISIBLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=4096)
SEVERAL = b"""\
# who may ask
batch = 5f0c2a

  web\t=\tZm9v==\r
#old = 1234
batch = 5f0c2b
91d7e4==
"""


@given(VISIBLE)
def test_a_file_of_one_word_is_that_token(word: str) -> None:
    """Also one that looks like a comment, or like a name and a token."""
    assert tokens_in(f" {word}\n".encode(), "FILE") == (Token("", word.encode()),)


def test_several_tokens_each_with_its_name() -> None:
    assert tokens_in(SEVERAL, "FILE") == (
        Token("batch", b"5f0c2a"),
        Token("web", b"Zm9v=="),
        Token("batch", b"5f0c2b"),
        Token("", b"91d7e4=="),
    )


WRONG = {
    "a line of two words": (b"a = 1x1x\n2x2x 3x3x", "line 2: this is not a token of at most 4096"),
    "no token": (b"\n\na =\n", "line 3: this is not a token"),
    "two tokens": (b"a = 1x1x 2x2x", "line 1: this is not a token"),
    "no name": (b"= 1x1x", "line 1: this is not a token"),
    "no space": (b"a = 1x1x\nb=2x2x", "line 2: no space is around the `=`"),
    "a token for a name": (b"1x" * 17 + b" = a", "line 1: what is left of the `=` is not a name"),
    "a strange name": (b"\xc3\xa4 = 1x1x", "line 1: what is left of the `=` is not a name"),
    "strange characters": (b"a = 1x1x\nb = 2x\xff\xfe", "line 2: a token has at most 4096 visible"),
    "a long token": (b"a = " + b"1x" * 2049, "line 1: a token has at most 4096 visible ASCII"),
    "the same twice": (b"a = 1x1x\n\nb = 1x1x", "has the same token on line 1 and on line 3"),
    "comments alone": (b"# a = 1x1x\n", "has comments only, and no token"),
    "nothing": (b" \n", "is empty"),
}


@pytest.mark.parametrize(("content", "why"), WRONG.values(), ids=WRONG)
def test_what_is_no_token_file_is_refused_with_its_line(content: bytes, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        tokens_in(content, "FILE")
    assert f"FILE{'' if why.startswith(('has', 'is')) else ','} {why}" in refused.value.message
    assert (
        "token a line" in str(refused.value.hint)
        or "openssl rand" in str(refused.value.hint)
        or ("a name has at most 32" in str(refused.value.hint))
    )


@pytest.mark.parametrize("content", [content for content, _ in WRONG.values()], ids=WRONG)
def test_no_message_has_a_word_of_the_file(content: bytes) -> None:
    """Any of them may be the secret, also one that stands for a name by mistake."""
    with pytest.raises(UsageError) as refused:
        tokens_in(content, "FILE")
    said = f"{refused.value.message} {refused.value.hint}"
    assert "1x" not in said
    assert "2x" not in said
    assert "1x" not in repr(Token("a", b"1x1x"))


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("batch=0.3", {"batch": 0.3}),
        ("batch=0.3,web=1", {"batch": 0.3, "web": 1.0}),
        (" a.b-c_d = 1e-3 , 7 = .5", {"a.b-c_d": 0.001, "7": 0.5}),
    ],
)
def test_shares(text: str, shares: dict[str, float]) -> None:
    assert shares_in(text) == shares


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"),
        ("0.3", "'0.3'"),
        ("batch", "'batch'"),
        ("batch=", "'batch='"),
        ("=0.3", "'=0.3'"),
        ("batch=0", "'batch=0'"),
        ("batch=1.1", "'batch=1.1'"),
        ("batch=-0.1", "'batch=-0.1'"),
        ("batch=nan", "'batch=nan'"),
        ("batch=30%", "'batch=30%'"),
        ("batch=0.3,", "''"),
        ("batch=0.3;web=0.5", "'batch=0.3;web=0.5'"),
        ("b\x1b[2J=0.3", "not a valid value"),
    ],
)
def test_what_is_no_share_is_named(text: str, named: str) -> None:
    with pytest.raises(UsageError) as refused:
        shares_in(text)
    assert f"{named}" in refused.value.message
    assert refused.value.message.endswith(" is not a valid value of --max-share")
    assert "\x1b" not in refused.value.message
    assert "batch=0.3,web=0.5" in str(refused.value.hint)


def test_two_shares_of_one_token() -> None:
    with pytest.raises(UsageError, match="--max-share has two shares for batch"):
        shares_in("batch=0.3,web=0.1,batch=0.4")
