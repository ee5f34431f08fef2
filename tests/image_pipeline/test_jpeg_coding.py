"""How a JPEG is coded: the markers that are found, wherever the pieces of the search end."""

from __future__ import annotations

import random
import re

import pytest

from mlserve.image_pipeline import jpeg_coding as module
from mlserve.image_pipeline.jpeg_coding import jpeg_coding
from mlserve.images import PROGRESSIVE, SCAN

KINDS = re.compile(b"|".join(map(re.escape, (SCAN, *PROGRESSIVE))))


@pytest.mark.parametrize("piece", [1, 2, 7, 2**17])
def test_markers_are_found_where_a_pattern_finds_them(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECE", piece)
    chance = random.Random(piece)
    for _ in range(300):
        length = chance.randrange(40)
        data = bytes(chance.choice(b"\xff\xda\x00\xc2\xca\xd2") for _ in range(length))
        markers = list(KINDS.finditer(data))
        scans = [marker.start() for marker in markers if marker[0] == SCAN]
        found = jpeg_coding(data)
        assert found.scans == len(scans)
        assert found.last_scan == max(scans, default=-1)
        assert found.components == [data[at + 4] for at in scans if at + 4 < length]
        assert found.is_progressive == (len(scans) < len(markers))


def test_of_thousands_of_scans_all_are_counted() -> None:
    data = (SCAN + b"\x0c\x03") * 5000
    found = jpeg_coding(data)
    assert (found.scans, found.last_scan) == (5000, len(data) - 5)
    assert len(found.components) == 1000
    assert not found.is_progressive
    assert jpeg_coding(data + PROGRESSIVE[0]).is_progressive
