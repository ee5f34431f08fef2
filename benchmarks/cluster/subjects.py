"""What the cluster serves: a model that sleeps, or a real classifier of images."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

from mlserve import AsyncClient

_HORSE = Path(__file__).parents[2] / "examples" / "horse.jpg"
SLEEP = 0.02
"""Seconds that a call of the sleeping model sleeps."""
_THOUGHT = 0.1
"""Seconds between two calls of a caller of the classifier, which needs the CPU."""


class Subject(ABC):
    """A model, how versions of it are published, and how it is asked."""

    backend: str
    model: str
    replicas: int

    @property
    def name(self) -> str:
        """The model as the command line names it."""
        return f"{self.backend}/{self.model}"

    def publish(self, home: Path, version: int, *, is_bad: bool = False) -> None:
        """Put a version into the store of that home; a bad one does not load."""
        aside = home / "data" / "models" / self.backend / self.model / f".{version}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        self._write(aside, is_bad=is_bad)
        aside.rename(aside.with_name(str(version)))

    @abstractmethod
    def _write(self, folder: Path, *, is_bad: bool) -> None:
        """Make the folder with the files of a version."""

    @abstractmethod
    async def ask(self, client: AsyncClient, timeout: float) -> None:  # noqa: ASYNC109
        """Ask once. Raises MlserveError."""


class Sleeping(Subject):
    """The tests' echo backend."""

    backend, replicas = "echo", 4

    def __init__(self, model: str = "m") -> None:
        self.model = model

    def _write(self, folder: Path, *, is_bad: bool) -> None:
        folder.mkdir()
        config = {"fail_load": "it has no weights"} if is_bad else {}
        (folder / "echo.json").write_text(json.dumps(config))

    async def ask(self, client: AsyncClient, timeout: float) -> None:  # noqa: ASYNC109
        await client.infer({"seconds": [SLEEP]}, signature="slow", timeout=timeout)


class Classifier(Subject):
    """`efficientnet_lite0` on ONNX Runtime, exported into a folder; a wrong label is an error."""

    backend, model, replicas = "onnxruntime", "efficientnet_lite0", 2

    def __init__(self, folder: Path) -> None:
        argv = ("export", "--backend", self.backend, "--model", self.model)
        done = subprocess.run(
            [sys.executable, "-m", "mlserve", *argv],
            env={**os.environ, "MLSERVE_HOME": str(folder)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        self._exported = Path(done.stdout.splitlines()[0])

    def _write(self, folder: Path, *, is_bad: bool) -> None:
        shutil.copytree(self._exported, folder)
        if is_bad:
            os.truncate(folder / "model.onnx", 1000)

    async def ask(self, client: AsyncClient, timeout: float) -> None:  # noqa: ASYNC109
        prediction = await client.predict(_HORSE, timeout=timeout)
        if prediction.label != "sorrel":
            raise SystemExit(f"the horse is a {prediction.label}")
        await asyncio.sleep(_THOUGHT)
