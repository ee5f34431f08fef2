"""Answers of HTTP/1.1, cut anywhere; answers that are none; and those that are too much."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve.client.http1_answer import (
    MOST_OF_A_HEAD,
    AnswerError,
    AnswerReader,
    CutOff,
    NotHttp,
    TooLarge,
    UnknownCoding,
)

OK = b"HTTP/1.1 200 OK\r\n"
LIMIT = 1000
PACKED = gzip.compress(b"hello" * 20, mtime=0)


def read(pieces: Iterable[bytes], limit: int = LIMIT) -> AnswerReader:
    """The reader of an answer that came in these pieces, after which the connection ended."""
    reader = AnswerReader(limit)
    for piece in pieces:
        reader.feed(piece)
    reader.end()
    return reader


def outcome(pieces: Iterable[bytes]) -> object:
    try:
        found = read(pieces)
    except AnswerError as error:
        # Where the bytes that an error shows begin is given by the answer, not where they end.
        return type(error), re.sub(r": b['\"].*", "", str(error))
    return found.status, found.headers, found.body, found.can_be_kept


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An answer of one of the kinds that servers send, and its body."""
    body = draw(st.binary(max_size=60))
    end = draw(st.sampled_from([b"\r\n", b"\n"]))
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue", b"HTTP/1.1 103 X\r\nLink: a"]))
    head = draw(st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 404 ", b"HTTP/1.1 500"]))
    lines = [head, b"X-A: 1", b"x-a:2", b"X-Folded: a\r\n  b"]
    framing = draw(st.sampled_from(["length", "chunks", "end", "gzip"]))
    if framing == "length":
        sent = body
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "gzip":
        sent = gzip.compress(body, mtime=0)
        lines += [b"content-encoding: gzip", b"Content-Length: %d" % len(sent)]
    elif framing == "chunks":
        size = draw(st.integers(1, 30))
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        extension = draw(st.sampled_from([b"", b";a=b", b' ; a="b;c"']))
        chunks = [b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts]
        trailer = draw(st.sampled_from([b"", b"X-Sum: 1\r\n"]))
        sent = b"".join(chunks) + b"000" + extension + b"\r\n" + trailer + b"\r\n"
        lines.append(b"Transfer-Encoding: Chunked")
    else:
        sent = body
    whole = end.join([*lines, b"", b""]) + sent
    return (interim + b"\r\n\r\n" if interim else b"") + whole, body


@given(answers(), st.data())
@settings(max_examples=200, deadline=None)
def test_an_answer_is_the_same_however_it_is_cut(
    answer: tuple[bytes, bytes], data: st.DataObject
) -> None:
    whole, body = answer
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    places = [0, *cuts, len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(places)]
    found = read(pieces)
    assert found.body == body
    assert found.headers["x-a"] == "1, 2"
    assert found.headers["x-folded"] == "a b"
    assert (
        outcome(pieces) == outcome([whole]) == outcome(whole[n : n + 1] for n in range(len(whole)))
    )


def test_a_field_of_blanks_before_a_fold_takes_no_time() -> None:
    """It took a minute when each blank was the beginning of a search."""
    found = read([b"HTTP/1.1 200 OK\r\nX-A:" + b" " * 120_000 + b"a\r\n b\r\n\r\n"])
    assert found.headers["x-a"] == "a b"


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_answer_is_read_or_named(data: st.DataObject) -> None:
    """One byte more, less or another anywhere: nothing but our own errors, however it is cut."""
    whole, _ = data.draw(answers())
    at = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.binary(max_size=2))
    damaged = whole[:at] + new + whole[at + 1 :]
    assert outcome([damaged]) == outcome(damaged[n : n + 1] for n in range(len(damaged)))


@pytest.mark.parametrize(
    ("answer", "status", "body", "can_be_kept"),
    [
        (OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi", True),
        (OK + b"Content-Length: 2, 2\r\n\r\nhi", 200, b"hi", True),
        (OK + b"Content-Length: 2\r\nConnection: x, Close\r\n\r\nhi", 200, b"hi", False),
        (OK + b"Content-Length: 2\r\n\r\nhi there", 200, b"hi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", False),
        (OK + b"\r\nall of it", 200, b"all of it", False),
        (b"HTTP/1.1 204 No\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", 304, b"", True),
        (OK + b"Content-Length: 0\r\n\r\n", 200, b"", True),
        (OK + b"Content-Length: 0\r\nContent-Encoding: gzip\r\n\r\n", 200, b"", True),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, b"", True),
        (
            OK + b"Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n1\r\na\r\n0\r\n\r\n",
            *(200, b"a", False),
        ),
        (b"HTTP/1.1 100 \r\n\r\n" * 9 + OK + b"Content-Length: 1\r\n\r\na", 200, b"a", True),
    ],
)
def test_an_answer(answer: bytes, status: int, body: bytes, *, can_be_kept: bool) -> None:
    found = read([answer])
    assert (found.status, found.body, found.can_be_kept) == (status, body, can_be_kept)


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2", NotHttp, "illegal status line: b'SSH"),
        (b"\x15\x03\x01\x00\x02\x02\x16", NotHttp, "illegal status line"),
        (b"HTTP/2.0 200 OK\r\n\r\n", NotHttp, "illegal status line"),
        (b"HTTP/1.1 20 OK\r\n\r\n", NotHttp, "illegal status line"),
        (b"HTTP/1.1 099 OK\r\n\r\n", NotHttp, "illegal status line"),
        (b"HTTP/1.1 \xb2\xb0\xb0 OK\r\n\r\n", NotHttp, "illegal status line"),
        (b"\r\n" + OK + b"\r\n", NotHttp, "illegal status line"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", NotHttp, "switches to another protocol"),
        (OK + b"no colon\r\n\r\n", NotHttp, "illegal header line: 'no colon'"),
        (OK + b"space : 1\r\n\r\n", NotHttp, "illegal header line"),
        (OK + b": 1\r\n\r\n", NotHttp, "illegal header line"),
        (OK + b"a: b\rc\r\n\r\n", NotHttp, "illegal characters"),
        (OK + b"a: b\0\r\n\r\n", NotHttp, "illegal characters"),
        (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", NotHttp, "illegal Content-Length"),
        (OK + b"Content-Length: -1\r\n\r\n", NotHttp, "illegal Content-Length"),
        (OK + b"Content-Length: +1\r\n\r\n", NotHttp, "illegal Content-Length"),
        (OK + b"Content-Length: 0x1\r\n\r\n", NotHttp, "illegal Content-Length"),
        (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", NotHttp, "illegal Content-Length"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", NotHttp, "illegal Transfer-Encoding"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", NotHttp, "malformed size of a chunk"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", NotHttp, "malformed size of a chunk"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n", NotHttp, "malformed"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", NotHttp, "malformed end"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;" * 4000, NotHttp, "malformed chunk"),
        (OK + b"Content-Length: 2\r\n\r\nh", CutOff, "in the middle"),
        (OK + b"Content-Len", CutOff, "in the middle"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", CutOff, "in the middle"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", CutOff, "in the middle"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", CutOff, "in the middle"),
        (b"", CutOff, "without an answer"),
        (OK + b"Content-Encoding: br\r\n\r\n", UnknownCoding, "Content-Encoding 'br'"),
        (OK + b"Content-Encoding: gzip\r\n\r\nplain", UnknownCoding, "incorrect header"),
        (OK + b"Content-Encoding: gzip\r\n\r\n" + PACKED[:-9], UnknownCoding, "cut off"),
        (OK + b"Content-Encoding: gzip\r\n\r\n" + PACKED + PACKED, UnknownCoding, "follows"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_named(answer: bytes, error: type[AnswerError], why: str) -> None:
    with pytest.raises(error, match=re.escape(why)) as caught:
        read([answer])
    assert len(str(caught.value)) < 500
    assert outcome([answer]) == outcome(answer[n : n + 1] for n in range(len(answer)))


@pytest.mark.parametrize(
    "endless",
    [
        (OK, b"a: b\r\n"),
        (OK + b"a: ", b"b" * 100),
        (OK[:-2], b"b" * 100),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\na", b"b" * 100),
    ],
    ids=["fields", "one field", "reason", "interim", "trailer", "one field of a trailer"],
)
def test_a_head_without_an_end_is_not_kept(endless: tuple[bytes, bytes]) -> None:
    start, more = endless
    reader, size = AnswerReader(LIMIT), len(start)
    with pytest.raises(NotHttp, match=str(MOST_OF_A_HEAD)):  # noqa: PT012
        reader.feed(start)
        while size < 2 * MOST_OF_A_HEAD:
            reader.feed(more)
            size += len(more)
    with pytest.raises(NotHttp, match=str(MOST_OF_A_HEAD)):
        read([start + more * (2 * MOST_OF_A_HEAD // len(more))])


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 1001\r\n\r\n",
        OK + b"\r\n" + bytes(1001),
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 1001,
        OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n" + bytes(1001),
        OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(10**6), mtime=0),
    ],
    ids=["length", "end", "chunks", "one chunk", "gzip"],
)
def test_a_body_above_the_limit_is_not_read(answer: bytes) -> None:
    with pytest.raises(TooLarge):
        read([answer])


def test_a_body_as_large_as_the_limit_is_read() -> None:
    packed = gzip.compress(bytes(LIMIT), mtime=0)
    for head, body in ((b"\r\n", bytes(LIMIT)), (b"Content-Encoding: gzip\r\n\r\n", packed)):
        assert read([OK + head + body]).body == bytes(LIMIT)


def test_a_tunnel_begins_after_the_head_of_its_answer() -> None:
    for head in (b"HTTP/1.0 200 Connection established\r\n\r\n", OK + b"Content-Length: 9\r\n\r\n"):
        reader = AnswerReader(LIMIT, is_tunnel=True)
        assert reader.feed(head)
        assert reader.can_be_kept
    # A refusal is its status: its body may be long, coded, or have no end.
    for rest in (b"Content-Length: 99\r\n\r\nno", b"Content-Encoding: br\r\n\r\nno", b"\r\n"):
        reader = AnswerReader(0, is_tunnel=True)
        assert reader.feed(b"HTTP/1.1 407 Who\r\n" + rest)
        assert (reader.status, reader.reason, reader.can_be_kept) == (407, "Who", False)
