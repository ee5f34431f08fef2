"""How much memory there is, and that what a large image took is given back once it is answered."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mlserve.system import memory_limit, signal_name, usable_memory

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


V2 = "0::/system.slice/mlserve.service"
V1 = "9:cpu,cpuacct:/elsewhere\n4:memory:/docker/5f0c\n0::/"
GIB, NONE = 2**30, "9223372036854771712"


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        (V2, {"system.slice/mlserve.service/memory.max": f"{GIB}"}, GIB),
        (V2, {"system.slice/mlserve.service/memory.max": "max", "memory.max": "max"}, None),
        (
            V2,
            {
                "system.slice/mlserve.service/memory.max": f"{2 * GIB}",
                "system.slice/memory.max": f"{GIB}",
                "system.slice/other.service/memory.max": "4096",
            },
            GIB,
        ),
        ("0::/", {"memory.max": f"{GIB}"}, GIB),
        ("0::/../../elsewhere", {"memory.max": f"{GIB}"}, GIB),
        (V1, {"memory/docker/5f0c/memory.limit_in_bytes": f"{GIB}"}, GIB),
        (V1, {"memory/memory.limit_in_bytes": f"{GIB}"}, GIB),  # all that a container sees
        (V1, {"memory/docker/5f0c/memory.limit_in_bytes": NONE}, None),
        ("", {"memory.max": f"{GIB}"}, GIB),
        ("", {}, None),
    ],
)
def test_the_limits_of_the_cgroups_above_hold_too(
    tmp_path: Path, own: str, files: dict[str, str], limit: int | None
) -> None:
    named = tmp_path / "own"
    named.write_text(f"{own}\n")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    assert memory_limit(tmp_path / "cgroup", named) == limit


def test_the_memory_is_the_machines_at_most() -> None:
    assert 0 < usable_memory() <= psutil.virtual_memory().total


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
@pytest.mark.server
def test_blocks_of_pixels_go_back_to_the_system() -> None:
    """54 MB of floats a thread at most; without the limits about 170 MB stay after four threads."""
    done = subprocess.run(
        [sys.executable, "-c", _CHURN], capture_output=True, text=True, check=True
    )

    assert int(done.stdout) < 40 * 2**20


def test_a_signal_has_a_name_even_if_python_knows_none() -> None:
    assert signal_name(signal.SIGKILL) == "SIGKILL"
    assert signal_name(signal.SIGRTMIN + 6) == "SIGRTMIN+6"
