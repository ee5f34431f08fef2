"""Both decoders are one: the graph's and the one in Python, on damaged files.

`make fuzz` tries more of them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.damaged import damaged_files

pytestmark = pytest.mark.tensorflow
SCRIPT = Path(__file__).parent / "compare_decoders.py"
FILES = 880


def test_what_tensorflow_refuses_the_python_pipeline_refuses_and_pixels_are_equal() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--files", str(FILES)],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    *_, total = done.stdout.splitlines()
    files, accepted, refused, lacks_scans, differ = map(int, total.split()[1:])
    assert (files, differ) == (FILES, 0)
    assert min(accepted, refused) > FILES / 4, "damage of both kinds is tried"
    assert lacks_scans < FILES / 100


def test_a_damaged_file_can_be_made_again_from_its_seed_and_number() -> None:
    first, again = (list(damaged_files(100, seed=7)) for _ in range(2))

    assert first == again
    assert first != list(damaged_files(100, seed=8))
