"""The server that the benchmarks measure: the real export of a real model on ports of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODEL = "efficientnet_lite0"
IMAGE = Path(__file__).parents[1] / "examples" / "horse.jpg"
MLSERVE = (sys.executable, "-m", "mlserve")


@dataclass(frozen=True)
class ServedModel:
    """A running server and the files it serves."""

    grpc_endpoint: str
    model: str
    path: Path
    env: dict[str, str]


@contextmanager
def served_model(threads: int | None = None) -> Iterator[ServedModel]:
    """Exports the model into a folder that is removed afterwards, and serves it meanwhile."""
    with tempfile.TemporaryDirectory(prefix="mlserve-bench-") as home:
        env = {**os.environ, "MLSERVE_HOME": home}
        exported = _run(env, "export", "--backend", "tfserving", "--model", MODEL)
        thread_flags = [] if threads is None else ["--threads", str(threads)]
        _run(env, "up", "--launcher", "embedded", *thread_flags)
        try:
            record = json.loads(_run(env, "ps", "--output", "json"))[0]
            endpoint = f"{record['host']}:{record['grpc_port']}"
            yield ServedModel(endpoint, MODEL, Path(exported.splitlines()[0]), env)
        finally:
            _run(env, "down", "--all")


def _run(env: dict[str, str], *args: str) -> str:
    done = subprocess.run(
        [*MLSERVE, *args], env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=600
    )
    return done.stdout
