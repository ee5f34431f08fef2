"""Digests of weights: the same bytes give the same digest on every machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mlserve.artifact import digest_of


def path_digest(path: Path) -> str:
    """`sha256:<hex>` of a file's bytes, or of a folder's relative file names and their bytes."""
    if path.is_file():
        return f"sha256:{_hex(path)}"
    files = sorted(
        (file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file()
    )
    return digest_of("".join(f"{name}\0{_hex(file)}\n" for name, file in files).encode())


def random_digest(architecture: str, seed: int) -> str:
    """`sha256:<hex>` that stands for the random weights of that architecture and seed."""
    return digest_of(f"random weights of {architecture}, seed {seed}".encode())


def _hex(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
