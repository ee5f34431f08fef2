"""A Ctrl-C ends a command at whatever moment it arrives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlserve.errors import ExitCode

_COMMAND = """
import signal, sys, threading, weakref
from mlserve.cli import app

def interrupt(*_):
    signal.raise_signal(signal.SIGINT)

class Plain:
    pass

class WithDel:
    __del__ = interrupt

def waits_for_ever(**_):
    thing = {thing}
    reference = weakref.ref(thing, {callback})
    del thing
    threading.Event().wait()

app._command("doctor").callback = waits_for_ever
sys.argv = ["mlserve", "doctor"]
app.main()
"""


@pytest.mark.parametrize(("thing", "callback"), [("Plain()", "interrupt"), ("WithDel()", "None")])
def test_ctrl_c_in_a_finalizer_is_not_lost(thing: str, callback: str, tmp_path: Path) -> None:
    program = _COMMAND.format(thing=thing, callback=callback)
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        text=True,
        timeout=60,
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (ExitCode.INTERRUPTED, "", "")
