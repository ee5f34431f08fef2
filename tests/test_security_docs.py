"""Every test that docs/security.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
_NAMED = re.compile(r"`((?:tests|plugins)/[\w/-]+\.py)?(?:::(test_\w+))?`")


def test_each_test_that_the_table_names_is_there() -> None:
    named, file = 0, ""
    for path, test in _NAMED.findall((ROOT / "docs/security.md").read_text()):
        file = path or file
        text = (ROOT / file).read_text()
        assert not test or f"def {test}(" in text, f"{file}::{test}"
        named += 1
    assert named > 60
