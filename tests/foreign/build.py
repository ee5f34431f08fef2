"""Builds the environments of the foreign servers, each from its `constraints.txt`: `make foreign`.

An environment is built aside and renamed when it is whole, so that none is ever used half built.
It carries the digest of its constraints, and is built again when they change. Where the packages
cannot be had, the reason stands in the log beside it, and the tests of that server are skipped.

The constraints name every package that the server imports, and nothing else is installed.
`benchmarks/peers/environments.py` builds its environments with the same class.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SERVERS = (
    *("envoy", "triton", "mlserver", "kserve", "torchserve", "kubernetes"),
    *("browser", "rotel"),
)
PACKAGES = ("prometheus",)
"""Packages of Debian whose programs tests use: unpacked, as to install them takes root."""
FOLDER = Path(os.environ.get("MLSERVE_TEST_FOREIGN") or HERE.parents[1] / ".foreign")
"""Where the environments are; the variable lets several checkouts share them."""


@dataclass(frozen=True)
class Environment:
    """The virtual environment of one server: in `folder`, of exactly the packages listed."""

    name: str
    constraints: tuple[Path, ...]
    folder: Path

    @property
    def path(self) -> Path:
        """Where the whole environment is, once it has been built."""
        return self.folder / f"{self.name}-{self._digest}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    @property
    def reason(self) -> str:
        """Why there is no such environment: the last line of what its build said."""
        try:
            lines = self._log.read_text().strip().splitlines()
        except FileNotFoundError:
            return "it was not built"
        return lines[-1] if lines else "its build said nothing"

    def build(self) -> bool:
        """Whether the environment is there now."""
        if self.path.exists():
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f"{self.name}.{os.getpid()}"
        with self._log.open("w") as log:
            surroundings = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
            is_built = all(
                subprocess.run(
                    step, stdout=log, stderr=log, env=surroundings, check=False
                ).returncode
                == 0
                for step in self._steps(aside)
            )
        if is_built:
            _publish(aside, self.path)
        else:
            shutil.rmtree(aside, ignore_errors=True)
        return is_built

    @property
    def _digest(self) -> str:
        """What the environment is known by: its constraints, and Python's version."""
        made_from = b"".join(file.read_bytes() for file in self.constraints)
        return hashlib.sha256(made_from + sys.version.encode()).hexdigest()[:16]

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def _steps(self, aside: Path) -> tuple[tuple[str | Path, ...], ...]:
        pip = (sys.executable, "-m", "pip", "--python", aside / "bin" / "python")
        how = ("--quiet", "--no-deps", "--only-binary", ":all:", "--retries", "1")
        listed = [part for file in self.constraints for part in ("--requirement", file)]
        return (
            (sys.executable, "-m", "venv", "--without-pip", aside),
            (*pip, "install", *how, *listed),
        )


@dataclass(frozen=True)
class DebianPackage(Environment):
    """The files of a package of Debian, without those that it depends on."""

    @property
    def _digest(self) -> str:
        release = Path("/etc/os-release")
        made_for = release.read_bytes() if release.exists() else b""
        return hashlib.sha256(made_for + os.uname().machine.encode()).hexdigest()[:16]

    def _steps(self, aside: Path) -> tuple[tuple[str | Path, ...], ...]:
        return (("sh", "-c", _UNPACK, "sh", aside, self.name),)


_UNPACK = """\
mkdir "$1" && cd "$1" && apt-get download "$2" && dpkg-deb --extract ./*.deb . && rm ./*.deb"""


def of(server: str) -> Environment:
    """The environment of a server of the tests, or of a package."""
    if server in PACKAGES:
        return DebianPackage(server, (), FOLDER)
    return Environment(server, (HERE / server / "constraints.txt",), FOLDER)


def environment(server: str) -> Path:
    """Where the whole environment of that server is, once it has been built."""
    return of(server).path


def reason(server: str) -> str:
    """Why there is no such environment."""
    return of(server).reason


def _publish(aside: Path, whole: Path) -> None:
    try:
        aside.rename(whole)
    except OSError:  # another checkout that shares the folder was first
        if not whole.exists():
            raise
        shutil.rmtree(aside)


def build_all(environments: list[Environment], otherwise: str) -> None:
    """Build what is absent, and say how long it took or why it cannot be had, and what then."""
    for each in environments:
        was_there, began = each.path.exists(), time.monotonic()
        if not each.build():
            print(f"{each.name}: {otherwise}: {each.reason}")  # noqa: T201
        elif not was_there:
            print(f"{each.name}: built in {time.monotonic() - began:.0f} s")  # noqa: T201


if __name__ == "__main__":
    build_all([of(name) for name in (*SERVERS, *PACKAGES)], "its tests are skipped")
