"""The model served by every server of `other_servers.py`: half a second of work."""

from __future__ import annotations

import os
import time
from pathlib import Path

SECONDS = 0.5


def work() -> str:
    """Log in the file named by JOURNAL that a run has begun, take `SECONDS`, and answer."""
    with Path(os.environ["JOURNAL"]).open("a") as journal:
        journal.write("run\n")
    time.sleep(SECONDS)
    return "sorrel"
