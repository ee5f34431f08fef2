"""A folder of distributions with plugins, and processes that find them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


class Site:
    """A folder of distributions. `run` is a Python process that finds them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, distribution: str, plugin: str, source: str) -> None:
        """A distribution with one plugin, in a module named after the distribution."""
        module = distribution.replace("-", "_")
        (self.folder / f"{module}.py").write_text(source)
        info = self.folder / f"{module}-1.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[mlserve]\n{plugin} = {module}\n")

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *argv],
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
