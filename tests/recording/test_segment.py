"""The files of a recording: read whole or not at all, whatever has happened to them."""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from mlserve.errors import NotFound, UsageError
from mlserve.recording.folder import segment_name
from mlserve.recording.reading import Recording, Summary
from mlserve.recording.records import Kind, RecordedRequest, SampledBytes
from mlserve.recording.segment import Entries, NewerFormat, NotASegment, SegmentHeader, digest_of

PROCESS = "20261127T163400Z-12-ab34"
HEADER = SegmentHeader(PROCESS, 1, began=1000.0, wall=1000.0, offset=0.0, share=0.5)
SAMPLE = SampledBytes(
    b"\x00a photo", {"content-type": "image/jpeg"}, b"sorrel", {}, digest_of(b"sorrel")
)


def kind(number: int) -> Kind:
    return Kind("tfs", "rest", f"/v1/models/m{number}:predict", f"m{number}", 7, code="ok")


def block(*requests: tuple[int, SampledBytes | None], entries: Entries | None = None) -> bytes:
    """A block of requests, each of the kind of that number."""
    entries = entries or Entries()
    for number, sample in requests:
        key = (number,)
        known = entries.kinds.get(key)
        known = entries.add_kind(key, kind(number)) if known is None else known
        entries.add(known, 2.5 + number, 0.5, 0.25, 0.01, 0.02, 0.03, 0.04, 64, sample)
    return entries.take()


def written(folder: Path, data: bytes, number: int = 1) -> Path:
    path = folder / segment_name(PROCESS, number)
    path.write_bytes(data)
    return path


def read(folder: Path) -> tuple[list[RecordedRequest], Recording]:
    recording = Recording.open([folder])
    return list(recording.requests(reads_bytes=True)), recording


def test_what_was_written_is_read(tmp_path: Path) -> None:
    entries = Entries()
    blocks = block((1, None), (1, SAMPLE), entries=entries) + block((2, None), entries=entries)
    written(tmp_path, HEADER.to_bytes() + blocks)
    found, recording = read(tmp_path)
    assert [each.kind for each in found] == [kind(1), kind(1), kind(2)]
    assert [each.arrived for each in found] == [1003.5, 1003.5, 1004.5]
    first, sampled, _ = found
    assert (first.timeout, first.seconds, first.bytes_in) == (0.5, 0.25, 64)
    stages = (first.queue, first.decode, first.run, first.encode)
    assert stages == pytest.approx((0.01, 0.02, 0.03, 0.04))
    assert first.sample is None
    assert sampled.sample is not None
    kept = sampled.sample
    told = kept.body, dict(kept.headers), kept.answer, dict(kept.answer_headers), kept.digest
    assert told == (SAMPLE.body, SAMPLE.headers, SAMPLE.answer, {}, SAMPLE.digest)
    assert (kept.size, kept.has_answer) == (len(SAMPLE.body), True)
    assert (recording.problems, recording.shares) == ([], {0.5})
    without = list(Recording.open([tmp_path]).requests())
    assert [each.sample for each in without] == [None] * 3
    summary = Summary()
    for each in found:
        summary.add(each)
    assert (summary.requests, summary.in_time, summary.sampled, summary.seconds) == (3, 3, 1, 1.0)
    assert summary.counts("model") == {("m1",): 2, ("m2",): 1}


def test_a_file_that_was_cut_anywhere_has_its_whole_blocks_and_no_half_one(tmp_path: Path) -> None:
    entries = Entries()
    first = HEADER.to_bytes() + block((1, None), entries=entries)
    whole = first + block((1, SAMPLE), (2, None), entries=entries)
    for size in range(len(whole) + 1):
        written(tmp_path, whole[:size])
        found, recording = read(tmp_path)
        expected = 3 if size == len(whole) else 1 if size >= len(first) else 0
        assert len(found) == expected, size
        is_cut = size not in (len(HEADER.to_bytes()), len(first), len(whole))
        assert bool(recording.problems) is is_cut, size
        assert recording.damaged == 0


def test_a_damaged_block_is_left_out_and_told(tmp_path: Path) -> None:
    """Its kinds are not known then, so that requests of them are lost, never taken for others."""
    head, entries = HEADER.to_bytes(), Entries()
    blocks = [block((1, None), (2, SAMPLE), entries=entries), block((2, None), entries=entries)]
    blocks.append(block((3, None), entries=entries))
    for at in range(16, len(blocks[0]), 7):
        data = bytearray(b"".join(blocks))
        data[at] ^= 0x10
        written(tmp_path, head + bytes(data))
        found, recording = read(tmp_path)
        assert [each.kind for each in found] == [kind(3)]
        assert (recording.damaged, recording.lost) == (1, 3)
    [told] = recording.problems
    assert "1 part of its files are damaged and were left out, with 3 requests" in told
    data = bytearray(b"".join(blocks))
    data[0] ^= 1  # its magic: where the next one begins is not known
    written(tmp_path, head + bytes(data))
    found, recording = read(tmp_path)
    assert (found, recording.damaged) == ([], 1)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    header = json.loads(HEADER.to_bytes()) | {"mlserve_recording": 2, "mlserve": "9.1"}
    path = written(tmp_path, json.dumps(header).encode() + b"\nwhatever")
    with pytest.raises(NewerFormat, match=f"{path.name} has the format 2") as refused:
        read(tmp_path)
    assert "9.1" in (refused.value.hint or "")


@pytest.mark.parametrize("content", [b"hello\n", b"{}\n", b"[1]\n", b"\xff" * 70_000, b"null\n"])
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    with pytest.raises(NotASegment, match=path.name):
        read(tmp_path)


def test_folders_without_a_recording_are_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for folder, what in (
        (tmp_path / "absent", "is not there"),
        (file, "is a file"),
        (tmp_path, "holds no recording"),
    ):
        with pytest.raises(NotFound, match=what) as told:
            Recording.open([folder])
        assert "--record DIR" in (told.value.hint or "")


def test_what_a_later_mlserve_adds_to_a_kind_is_left_out() -> None:
    assert Kind.from_json({**kind(1)._asdict(), "colour": "red"}) == kind(1)
    assert Kind.from_json({}) == Kind()


def test_several_folders_are_one_recording(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        written(folder, HEADER.to_bytes() + block((number, None)))
    recording = Recording.open([tmp_path / "1", tmp_path / "2"])
    assert [each.kind.model for each in recording.requests()] == ["m1", "m2"]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    path = written(tmp_path, HEADER.to_bytes())
    recording = Recording.open([tmp_path])
    path.unlink()
    assert list(recording.requests()) == []  # its server has let it go meanwhile
    path.mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        list(recording.requests())


def raw(payload: bytes, count: int = 1, size: int | None = None) -> bytes:
    """A block with a checksum that is right, whatever it holds."""
    length = len(payload) if size is None else size
    return struct.pack("<4sIII", b"mlrb", length, zlib.crc32(payload), count) + payload


def kind_entry(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<BIH", 1, 0, len(text) if length is None else length) + text


def request_entry(tag: int = 2, *, at: float = 1.0, times: tuple[float, ...] = (0.1,) * 6) -> bytes:
    return struct.pack("<BIdffffffQ", tag, 0, at, *times, 10)


KIND = kind_entry(b'{"api": "tfs", "code": "ok"}')


@pytest.mark.parametrize(
    "payload",
    [
        kind_entry(b"[]"),
        kind_entry(b"7"),
        kind_entry(b'{"version": Infinity}'),
        kind_entry(b'{"version": "x"}'),
        kind_entry(b"[" * 60_000),
        kind_entry(b"\xff\xff"),
        kind_entry(b"{}", length=60_000),
        KIND + request_entry(at=math.nan),
        KIND + request_entry(at=1e300),
        KIND + request_entry(at=-1.0),
        KIND + request_entry(times=(math.inf, 0, 0, 0, 0, 0)),
        KIND + request_entry(times=(0, 0, 0, 0, 0, math.nan)),
        KIND + request_entry()[:-1],
        KIND + b"\x09",
        KIND + request_entry(3) + struct.pack("<HIHI32s", 0, 2**31, 0, 2**31, bytes(32)),
        KIND + request_entry(3) + struct.pack("<HIHI32s", 2, 0, 0, 0, bytes(32)) + b"[]",
        KIND + request_entry(3) + struct.pack("<HIHI32s", 1, 0, 0, 0, bytes(32)) + b"{",
        KIND
        + request_entry(3)
        + struct.pack("<HIHI32s", 32, 0, 0, 0, bytes(32))
        + rb'{"content-type":"a\r\nx-evil: y"}',
    ],
)
def test_a_block_that_no_server_has_written_is_left_out(tmp_path: Path, payload: bytes) -> None:
    """Though its checksum is right; and the blocks after it are read."""
    written(tmp_path, HEADER.to_bytes() + raw(payload) + block((1, None)))
    found, recording = read(tmp_path)
    assert [each.kind for each in found] == [kind(1)]
    assert (recording.damaged, len(recording.problems)) == (1, 1)


def test_counts_and_lengths_that_are_not_true_cost_nothing(tmp_path: Path) -> None:
    head = HEADER.to_bytes()
    lying = bytearray(raw(KIND + request_entry(), count=2**32 - 1))
    lying[-1] ^= 1
    written(tmp_path, head + bytes(lying) + block((1, None)))
    found, recording = read(tmp_path)
    assert (len(found), recording.damaged, recording.lost) == (1, 1, 1)
    written(tmp_path, head + raw(KIND, size=2**26))
    found, recording = read(tmp_path)
    assert (found, recording.torn) == ([], 1)
    written(tmp_path, head + raw(KIND, size=2**32 - 1))
    found, recording = read(tmp_path)
    assert (found, recording.damaged) == ([], 1)


@pytest.mark.parametrize("began", [math.nan, math.inf, -1.0, 1e300, "9" * 400])
def test_a_file_that_begins_at_no_time_is_refused(tmp_path: Path, began: Any) -> None:
    path = written(tmp_path, json.dumps({**json.loads(HEADER.to_bytes()), "began": began}).encode())
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(NotASegment, match=path.name):
        read(tmp_path)


def test_of_the_headers_only_those_about_a_body_are_read(tmp_path: Path) -> None:
    """A recording that somebody else has made gives no token and no host to who replays it."""
    told = {"content-type": "image/png", "authorization": "Bearer x", "host": "elsewhere"}
    written(tmp_path, HEADER.to_bytes() + block((1, SampledBytes(b"x", told))))
    found, _ = read(tmp_path)
    assert found[0].sample is not None
    assert found[0].sample.headers == {"content-type": "image/png"}


def test_bytes_are_read_when_they_are_asked_for_also_of_a_file_that_is_gone(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER.to_bytes() + block((1, SAMPLE)))
    [found], _ = read(tmp_path)
    path.unlink()
    assert found.sample is not None
    assert (found.sample.body, found.sample.answer) == (SAMPLE.body, SAMPLE.answer)
    path = written(tmp_path, HEADER.to_bytes() + block((1, SAMPLE)))
    [found], _ = read(tmp_path)
    path.write_bytes(b"")
    assert found.sample is not None
    with pytest.raises(OSError, match="cut"):
        _ = found.sample.body
