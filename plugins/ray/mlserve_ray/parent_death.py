"""Child processes that end when their parent does, however that ends.

The kernel sends the signal when the thread that started the child ends, so a child must be started
on a thread that lives as long as its process should.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

_PROGRAM = """
import ctypes, os, sys
parent, number, *argv = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(number))
if os.getppid() != int(parent):
    sys.exit(1)
os.execv(argv[0], argv)
"""
"""Isolated and without site-packages, it costs about 15 ms. 1 is PR_SET_PDEATHSIG."""


def dying_with_us(argv: Sequence[str], number: signal.Signals = signal.SIGTERM) -> tuple[str, ...]:
    """Return a command that runs `argv`, which gets that signal once this process ends.

    `argv[0]` is a path.
    """
    return (sys.executable, "-I", "-S", "-c", _PROGRAM, str(os.getpid()), str(int(number)), *argv)
