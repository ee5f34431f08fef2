"""The tokens that a server takes, and the share of its time that each may use.

A token file holds one token, or several, one a line, each with the name of who has it:

    # the nightly jobs
    batch = 5f0c2a...
    web = 91d7e4...

`--max-share batch=0.3` goes by these names, as do the server's log and its decisions. A name may
stand on several lines, so that a token can be replaced while the old one still holds. The secrets
themselves are in no message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mlserve.errors import UsageError, shortened
from mlserve.options import flag_of

_SECRET = re.compile(rb"[!-~]{1,4096}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_LOOKS_NAMED = re.compile(rb"[^=]+=+[^=]")
"""`batch=5f0c2a`: not the padding of base64, which is at the end."""
_COMMENT = b"#"
_MAKE_ONE = "make one: openssl rand -hex 32 > FILE && chmod 600 FILE"
_NAMED_LINE = 3
"""The words of a line with a name."""
_TAKES = "at most 4096 visible ASCII characters without spaces"
_LINES = "write one token a line, alone or as `NAME = TOKEN`, with a space on each side of the `=`"
_SHARES = (
    "give NAME=SHARE, with a name of the token file and a share above 0 and at most 1, and commas "
    "between several: batch=0.3,web=0.5"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and the name of who has it; empty for one without a name."""

    name: str
    secret: bytes = field(repr=False)


def tokens_in(content: bytes, shown: str) -> tuple[Token, ...]:
    """Return the tokens in a file's content, in its order; at least one.

    A file that is one word is that token, whatever characters it has. `shown` is what messages
    call the file. Raises UsageError for no token, a line that is none, and one that occurs twice.
    """
    whole = content.strip()
    if not whole:
        raise UsageError(f"{shown} is empty", hint=_MAKE_ONE)
    if _SECRET.fullmatch(whole):
        return (Token("", whole),)
    lines: dict[bytes, int] = {}
    tokens = []
    for number, token in _tokens(content, shown):
        if (first := lines.setdefault(token.secret, number)) != number:
            raise UsageError(
                f"{shown} has the same token on line {first} and on line {number}",
                hint=f"give each caller a token of its own; {_MAKE_ONE}",
            )
        tokens.append(token)
    if not tokens:
        raise UsageError(f"{shown} has comments only, and no token", hint=_MAKE_ONE)
    return tuple(tokens)


def _tokens(content: bytes, shown: str) -> Iterator[tuple[int, Token]]:
    """Yield each token with the number of its line."""
    for number, line in enumerate(content.splitlines(), 1):
        words = line.split()
        if words and not words[0].startswith(_COMMENT):
            yield number, _token(words, f"{shown}, line {number}:")


def _token(words: list[bytes], place: str) -> Token:
    """Return the token of a line. Its words are in no message: any of them may be the secret."""
    if len(words) == 1:
        if _LOOKS_NAMED.match(words[0]):
            raise UsageError(
                f"{place} no space is around the `=`: is this a name and a token, or one token?",
                hint=f"{_LINES}; a token with a `=` inside needs a name",
            )
        return Token("", _secret(words[0], place))
    if len(words) != _NAMED_LINE or words[1] != b"=":
        raise UsageError(
            f"{place} this is not a token of {_TAKES}, with or without a name",
            hint=f"{_LINES}; {_MAKE_ONE}",
        )
    name = words[0].decode("ascii", "replace")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{place} what is left of the `=` is not a name",
            hint="a name has at most 32 letters, digits, dots, hyphens and underscores, and begins "
            "with a letter or a digit",
        )
    return Token(name, _secret(words[2], place))


def _secret(word: bytes, place: str) -> bytes:
    if not _SECRET.fullmatch(word):
        raise UsageError(f"{place} a token has {_TAKES}", hint=_MAKE_ONE)
    return word


def shares_in(text: str) -> dict[str, float]:
    """Return the shares in the text of `--max-share`, by the names of their tokens.

    `batch=0.3,web=0.5` lets the token `batch` use at most 0.3 of the server's time while others
    wait. Raises UsageError.
    """
    shares: dict[str, float] = {}
    for item in text.split(","):
        name, _, share = map(str.strip, item.partition("="))
        if not _NAME.fullmatch(name) or not _is_share(share):
            raise UsageError(
                f"{shortened(item.strip())!r} is not a valid value of {flag_of('max_share')}",
                hint=_SHARES,
            )
        if name in shares:
            raise UsageError(
                f"{flag_of('max_share')} has two shares for {name}", hint="give each token one"
            )
        shares[name] = float(share)
    return shares


def _is_share(text: str) -> bool:
    try:
        share = float(text)
    except ValueError:
        return False
    return math.isfinite(share) and 0 < share <= 1
