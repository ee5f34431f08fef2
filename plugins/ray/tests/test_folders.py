"""Folders of processes: removed once their process is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mlserve_ray.folders import own_folder


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    left = tmp_path / f"kind-{ended.pid}-abc"
    others = [tmp_path / f"kind-{os.getppid()}-abc", tmp_path / "kind-notes", tmp_path / "kind"]
    for folder in (left, *others):
        folder.mkdir()
    mine = own_folder("kind", tmp_path)
    assert mine.stat().st_mode & 0o077 == 0
    assert sorted(tmp_path.iterdir()) == sorted([mine, *others])
