"""Versions of the backend `echo`, which answers as its `echo.json` says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlserve.artifact import Manifest, digest_of, labels_text
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.tensors import DType, Signature, TensorSpec

LABELS = ("sorrel", "zebra")
PHOTO = b"\xff\xd8\xff a photo of a horse"
"""The echo backend accepts this as an image."""
SIGNATURE = Signature(
    "serving_default",
    (TensorSpec("image", DType.BYTES, (None,)),),
    (TensorSpec("output_0", DType.BYTES, (None,)),),
)


def put_version(folder: Path, *, manifest: Manifest | None = None, **config: Any) -> Path:
    """Write a version folder atomically; `config` is the content of its `echo.json`."""
    incoming = folder.with_name(f".incoming-{folder.name}")
    incoming.mkdir(parents=True)
    (incoming / "echo.json").write_text(json.dumps(config))
    if manifest is not None:
        manifest.write(incoming, LABELS)
    return incoming.rename(folder)


def manifest(model: str = "m", *, has_random_weights: bool = False) -> Manifest:
    """Return the manifest of a version with the labels LABELS and one signature."""
    return Manifest(
        mlserve="0",
        backend="echo",
        model=model,
        source="test",
        created=datetime.now(UTC).isoformat(),
        weights_digest=digest_of(b""),
        labels_digest=digest_of(labels_text(LABELS)),
        has_random_weights=has_random_weights,
        pipeline=ImagePipeline(8, 8, 1.0, 0.0, Activation.IDENTITY, classes=len(LABELS)),
        signatures=(SIGNATURE,),
    )


def tensors_manifest(*, has_dependent_rows: bool = False) -> Manifest:
    """Return the manifest of a version that was exported as a model of tensors."""
    return replace(
        manifest(), pipeline=None, labels_digest=None, has_dependent_rows=has_dependent_rows
    )


class EchoModel:
    """A model whose versions log their runs in one journal."""

    def __init__(self, base_path: Path) -> None:
        self.name = base_path.name
        self.base_path = base_path
        self.journal = base_path.with_name("journal")
        self._released = base_path.with_name("released")
        self.journal.touch()
        base_path.mkdir()

    def put(self, version: int, *, manifest: Manifest | None = None, **config: Any) -> Path:
        """Write a version atomically; return its folder."""
        config = {"journal": str(self.journal), "released": str(self._released), **config}
        return put_version(self.base_path / str(version), manifest=manifest, **config)

    def release(self) -> None:
        """Let what runs as `slow`, or loads, end at once, and whatever comes later."""
        self._released.touch()

    def runs(self) -> list[str]:
        """Return the signatures that were run, and "close" for each Runner that was closed."""
        return self.journal.read_text().splitlines()
