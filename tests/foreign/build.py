"""Builds the environments of the foreign servers, each from its `constraints.txt`: `make foreign`.

An environment is built aside and renamed when it is whole, so that none is ever used half built.
It carries the digest of its constraints, and is built again when they change. Where the packages
cannot be had, the reason stands in the log beside it, and the tests of that server are skipped.

The constraints name every package that the server imports, and nothing else is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SERVERS = ("envoy", "triton", "mlserver", "kserve", "torchserve")
FOLDER = Path(os.environ.get("MLSERVE_TEST_FOREIGN") or HERE.parents[1] / ".foreign")
"""Where the environments are; the variable lets several checkouts share them."""


def digest(server: str) -> str:
    """What an environment of that server is known by: its constraints, and Python's version."""
    made_from = (HERE / server / "constraints.txt").read_bytes() + sys.version.encode()
    return hashlib.sha256(made_from).hexdigest()[:16]


def environment(server: str) -> Path:
    """Where the whole environment of that server is, once it has been built."""
    return FOLDER / f"{server}-{digest(server)}"


def reason(server: str) -> str:
    """Why there is no such environment: the last line of what its build said."""
    try:
        lines = (FOLDER / f"{server}.log").read_text().strip().splitlines()
    except FileNotFoundError:
        return "it was not built: make foreign"
    return lines[-1] if lines else "its build said nothing"


def build(server: str) -> bool:
    """Whether the environment is there now."""
    if environment(server).exists():
        return True
    FOLDER.mkdir(parents=True, exist_ok=True)
    aside = FOLDER / f"{server}.{os.getpid()}"
    began = time.monotonic()
    with (FOLDER / f"{server}.log").open("w") as log:
        python = aside / "bin" / "python"
        constraints = HERE / server / "constraints.txt"
        pip = (sys.executable, "-m", "pip", "--python", python)
        how = ("--quiet", "--no-deps", "--only-binary", ":all:", "--retries", "1")
        steps: tuple[tuple[str | Path, ...], ...] = (
            (sys.executable, "-m", "venv", "--without-pip", aside),
            (*pip, "install", *how, "--requirement", constraints),
        )
        surroundings = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
        is_built = all(
            subprocess.run(step, stdout=log, stderr=log, env=surroundings, check=False).returncode
            == 0
            for step in steps
        )
    if is_built:
        _publish(aside, environment(server))
        print(f"{server}: built in {time.monotonic() - began:.0f} s")  # noqa: T201
    else:
        shutil.rmtree(aside, ignore_errors=True)
        print(f"{server}: its tests are skipped: {reason(server)}")  # noqa: T201
    return is_built


def _publish(aside: Path, whole: Path) -> None:
    try:
        aside.rename(whole)
    except OSError:  # another checkout that shares the folder was first
        if not whole.exists():
            raise
        shutil.rmtree(aside)


if __name__ == "__main__":
    for name in SERVERS:
        build(name)
