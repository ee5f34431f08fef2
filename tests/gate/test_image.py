"""The image of a part, as it is read."""

from __future__ import annotations

import pytest

from mlserve.errors import UsageError
from mlserve.gate import gate
from mlserve.gate.gate import Part


def test_what_is_too_large_for_an_image_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "_MOST_BYTES", 1000)
    with pytest.raises(UsageError, match="more than 1000 bytes"):
        gate._read(Part("/dev/zero"))
