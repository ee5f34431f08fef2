"""An mlserve server that writes the demand of each call into the file named DEMANDS, at its end.

`record.py` starts it. A line is what the call took of the server, in seconds, and whether nothing
ran beside it.
"""

from __future__ import annotations

import atexit
import os
import runpy
from pathlib import Path
from typing import Any

from mlserve.admission.admission import Admission, Slot

_end = Admission.end
_lines: list[str] = []


def _recorded(self: Admission[Any], now: float, slot: Slot[Any]) -> float:
    demand = _end(self, now, slot)
    _lines.append(f"{demand:.6f} {int(slot.was_alone)}\n")
    return demand


if __name__ == "__main__":
    Admission.end = _recorded  # type: ignore[method-assign]
    atexit.register(lambda: Path(os.environ["DEMANDS"]).write_text("".join(_lines)))
    runpy.run_module("mlserve.server", run_name="__main__", alter_sys=True)
