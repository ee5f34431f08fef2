"""What a large image took is given back when it has been answered."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CHURN = """
import sys, threading
import numpy as np, psutil
from mlserve.system import give_back_large_blocks

give_back_large_blocks()
def decode():
    for side in (500, 1500, 3000, 2000, 3000):
        pixels = np.full((side, side, 3), 7, np.uint8)
        pixels[::2].astype(np.float32)
        small = [bytes(100_000) for _ in range(50)]
before = psutil.Process().memory_info().rss
threads = [threading.Thread(target=decode) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_blocks_of_pixels_go_back_to_the_system() -> None:
    """54 MB of floats a thread at most; without the limits about 170 MB stay after four threads."""
    done = subprocess.run(
        [sys.executable, "-c", _CHURN], capture_output=True, text=True, check=True
    )

    assert int(done.stdout) < 40 * 2**20
