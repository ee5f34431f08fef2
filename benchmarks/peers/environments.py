"""The environments of the servers that `make bench-peers` compares; it builds those absent.

They lie in the folder that MLSERVE_BENCH_PEERS names, by default `mlserve-bench-peers` under the
user's cache. Each holds the packages of the files below, of exactly those versions, and no others.

    python benchmarks/peers/environments.py [NAME ...]
"""

from __future__ import annotations

import argparse
import os
import runpy
from pathlib import Path
from typing import Any

import platformdirs

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = Path(
    os.environ.get("MLSERVE_BENCH_PEERS") or platformdirs.user_cache_path("mlserve-bench-peers")
)
_OWN, _OF_THE_TESTS = HERE / "requirements", ROOT / "tests" / "foreign"
_BUILD = runpy.run_path(str(_OF_THE_TESTS / "build.py"))
CONSTRAINTS = {
    "fastapi": (_OWN / "fastapi.txt",),
    "litserve": (_OWN / "litserve.txt",),
    "bentoml": (_OWN / "bentoml.txt",),
    "ray": (_OWN / "ray.txt",),
    "mlserver": (_OF_THE_TESTS / "mlserver" / "constraints.txt",),
    "torchserve": (_OF_THE_TESTS / "torchserve" / "constraints.txt", _OWN / "torchserve.txt"),
    "triton": (_OF_THE_TESTS / "triton" / "constraints.txt",),
}


def environment(name: str) -> Any:
    """Return the environment of a server, built or not; see tests/foreign/build.py."""
    return _BUILD["Environment"](name, (*CONSTRAINTS[name], _OWN / "pipeline.txt"), FOLDER)


def version(name: str, distribution: str) -> str:
    """Return the version of a package that the constraints of a server name."""
    for line in environment(name).constraints[0].read_text().splitlines():
        package, _, number = line.partition("==")
        if package == distribution:
            return number
    raise KeyError(distribution)


def main() -> None:
    """Build the environments that are absent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CONSTRAINTS))
    names = parser.parse_args().names or list(CONSTRAINTS)
    if unknown := [name for name in names if name not in CONSTRAINTS]:
        parser.error(f"{unknown[0]!r} has no environment; choose {', '.join(CONSTRAINTS)}")
    _BUILD["build_all"]([environment(name) for name in names], "it is left out")


if __name__ == "__main__":
    main()
