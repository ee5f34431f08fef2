"""An exported model on disk: its manifest, its labels, and how both are written and read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlserve.errors import UsageError, reason_of
from mlserve.facts import Facts, facts_from_json, facts_to_json
from mlserve.pipeline import ImagePipeline
from mlserve.plain_files import json_of, read_plain
from mlserve.tensors import Signature
from mlserve.version_folders import version_folder

MANIFEST_NAME = "mlserve.json"
LABELS_NAME = "labels.txt"
LABELS_JSON_NAME = "labels.json"
"""The file in place of `labels.txt` for labels with a line break in them."""
_FORMAT = 1


def digest_of(data: bytes) -> str:
    """`sha256:<hex>` of these bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def labels_text(labels: Sequence[str]) -> bytes:
    """The labels as their file holds them: UTF-8, one a line; a JSON list if one has a line break.

    Only a line feed ends a line: every other character of a label arrives as it is.
    """
    if _need_json(labels):
        return json.dumps(list(labels), ensure_ascii=False, indent=0).encode()
    return "".join(label + "\n" for label in labels).encode()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of an exported model: `mlserve.json` in its version folder.

    `created` is UTC, ISO 8601. Digests are `sha256:<hex>`. `facts` say how the pipeline is known;
    manifests of older versions have none.
    """

    mlserve: str
    backend: str
    model: str
    source: str
    created: str
    weights_digest: str
    labels_digest: str
    has_random_weights: bool
    pipeline: ImagePipeline
    signatures: tuple[Signature, ...]
    facts: Facts = field(default_factory=dict)

    def write(self, folder: Path, labels: Sequence[str]) -> None:
        """Writes the manifest and the labels into `folder`."""
        name = LABELS_JSON_NAME if _need_json(labels) else LABELS_NAME
        (folder / name).write_bytes(labels_text(labels))
        (folder / MANIFEST_NAME).write_text(json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest in `folder`; None where there is none (a model that mlserve did not export).

        Raises UsageError when the file is there and cannot be read.
        """
        path = folder / MANIFEST_NAME
        try:
            return cls.from_json(json_of(read_plain(path)))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UsageError(
                f"{path} cannot be read: {reason_of(error)}",
                hint="export the model again; remove the folder if it is not wanted",
            ) from error

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "mlserve": self.mlserve,
            "backend": self.backend,
            "model": self.model,
            "source": self.source,
            "created": self.created,
            "weights_digest": self.weights_digest,
            "labels_digest": self.labels_digest,
            "has_random_weights": self.has_random_weights,
            "pipeline": self.pipeline.to_json(),
            "signatures": [signature.to_json() for signature in self.signatures],
            "facts": facts_to_json(self.facts),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Manifest:
        if data["format"] != _FORMAT:
            raise ValueError(f"manifest format {data['format']!r} is not known")
        values = {key: value for key, value in data.items() if key != "format"}
        values["pipeline"] = ImagePipeline.from_json(data["pipeline"])
        values["signatures"] = tuple(Signature.from_json(item) for item in data["signatures"])
        values["facts"] = facts_from_json(data.get("facts", {}))
        return cls(**values)


def without_manifest(base_path: Path, versions: Sequence[int]) -> tuple[int, ...]:
    """Those of these versions that have no manifest, though a lower one of them has.

    Where mlserve exported a version, a higher one without `mlserve.json` is most likely still being
    copied. Loaded as a raw model it would have other inputs and outputs than the one it replaces.
    """
    exported = [v for v in versions if (version_folder(base_path, v) / MANIFEST_NAME).exists()]
    return tuple(v for v in versions if v not in exported and v > min(exported, default=v))


@dataclass(frozen=True, slots=True)
class Artifact:
    """One version of a model on disk: the folder `path` named after the number `version`.

    `manifest` is None for a model that mlserve did not export.
    """

    path: Path
    model: str
    version: int
    manifest: Manifest | None

    @classmethod
    def open(cls, base_path: Path, model: str, version: int) -> Artifact:
        """The artifact in `base_path/<version>`. Raises UsageError for an unreadable manifest."""
        path = version_folder(base_path, version)
        return cls(path, model, version, Manifest.read(path))

    def labels(self) -> tuple[str, ...]:
        """The labels beside the manifest, checked against its digest and class count.

        Raises UsageError when the file is absent, is not UTF-8 or is not the one that was exported.
        """
        path = self.path / LABELS_JSON_NAME
        if not path.exists():
            path = self.path / LABELS_NAME
        try:
            data = read_plain(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read: {error}", hint=_EXPORT_AGAIN) from error
        if self.manifest and digest_of(data) != self.manifest.labels_digest:
            raise UsageError(f"{path} was changed after the export", hint=_EXPORT_AGAIN)
        labels = _read_labels(path, data)
        if self.manifest:
            self.manifest.pipeline.full_labels(labels)
        return labels


def _need_json(labels: Sequence[str]) -> bool:
    return any("\n" in label for label in labels)


def _read_labels(path: Path, data: bytes) -> tuple[str, ...]:
    """What `labels_text` wrote. Raises UsageError that names the label which is not UTF-8."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start)
        line = data.split(b"\n")[number]
        raise UsageError(
            f"label {number} in {path} is not UTF-8: {line[:_LONGEST]!r}", hint=_EXPORT_AGAIN
        ) from error
    if path.name != LABELS_JSON_NAME:
        return tuple(text.removesuffix("\n").split("\n"))  # splitlines knows other line ends too
    try:
        labels = json_of(text)
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}", hint=_EXPORT_AGAIN) from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UsageError(f"{path} is not a list of strings", hint=_EXPORT_AGAIN)
    return tuple(labels)


_LONGEST = 200
_EXPORT_AGAIN = "export the model again: mlserve export --labels FILE"
