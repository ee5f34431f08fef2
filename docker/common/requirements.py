"""Prints what has to be installed for a distribution of this tree: names and ranges, one a line.

Distributions of the tree themselves are left out, and what they need is there instead, so that the
layer of an image that installs these lines changes only when a dependency does.

    python docker/common/requirements.py 'mlserve-onnxruntime[serve]'
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAME = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[(?P<extras>[^]]*)\])?")


def local_projects(tree: Path) -> dict[str, dict[str, Any]]:
    """The `[project]` tables of the tree's distributions, by name."""
    files = [tree / "pyproject.toml", *tree.glob("plugins/*/pyproject.toml")]
    tables = [tomllib.loads(file.read_text())["project"] for file in files]
    return {table["name"]: table for table in tables}


def third_party(wanted: list[str], projects: dict[str, dict[str, Any]]) -> list[str]:
    """The third-party requirements that `wanted` comes down to, sorted."""
    found: set[str] = set()
    seen: set[str] = set()
    open_ends = list(wanted)
    while open_ends:
        requirement = open_ends.pop()
        if requirement in seen:
            continue
        seen.add(requirement)
        match = _NAME.match(requirement)
        if match is None:
            raise ValueError(f"{requirement!r} is not a valid requirement")
        if match["name"] in projects:
            open_ends += _needs(projects[match["name"]], match["extras"] or "")
        else:
            found.add(requirement)
    return sorted(found)


def _needs(project: dict[str, Any], extras: str) -> Iterator[str]:
    yield from project.get("dependencies", [])
    for extra in filter(None, (part.strip() for part in extras.split(","))):
        yield from project["optional-dependencies"][extra]


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[2]
    print("\n".join(third_party(sys.argv[1:], local_projects(here))))  # noqa: T201
