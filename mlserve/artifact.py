"""Read and write exported models on disk: version folders, manifest and labels.

A folder whose name is a number is that version, with or without leading zeros: TensorFlow's own
exporters have written `00000123` (file_system_storage_path_source.cc reads it as 123).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mlserve.certificate.certificate import Certificate
from mlserve.digests import Digests, digests_from_json, digests_of, digests_to_json, faults
from mlserve.errors import ModelLoadFailed, UsageError, reason_of, shortened
from mlserve.pipeline import ImagePipeline
from mlserve.precision import Precision
from mlserve.sources import Facts, Kind, facts_from_json, facts_to_json
from mlserve.tensors import Signature

MANIFEST_NAME = "mlserve.json"
SIGNATURE_NAME = "model.sig"
"""The signature of the folder's files, as the `model_signing` command names it."""
LABELS_NAME = "labels.txt"
LABELS_JSON_NAME = "labels.json"
"""Replaces `labels.txt` when a label contains a line break."""
BESIDE_THE_MODEL = frozenset((MANIFEST_NAME, SIGNATURE_NAME))
"""The files of a version that its manifest does not list: itself, and what signs it."""
EXPORT_AGAIN = "export the model again: mlserve export; remove this version if it is not wanted"
"""The hint for a version whose files do not match."""
_FORMAT = 3
"""What `Manifest.write` writes.

Older ones are read for ever: format 1 has image classifiers only, and formats 1 and 2 list no
files.
"""
_DERIVED = {"format", "kind"}
"""Keys of a manifest's file that are not fields of `Manifest`."""
_LONGEST = 200
_EXPORT_AGAIN = "export the model again: mlserve export --labels FILE"
LARGEST_VERSION = 2**63 - 1
LARGEST_PLAIN_FILE = 64 * 2**20
"""The size limit of such a file, in bytes; the labels of a million classes are smaller."""


def digest_of(data: bytes) -> str:
    """Return `sha256:<hex>` of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def labels_text(labels: Sequence[str]) -> bytes:
    """Return the labels as file content: UTF-8, one a line, or a JSON list if one has a line break.

    Only a line feed ends a line: every other character of a label is kept as it is.
    """
    if _need_json(labels):
        return json.dumps(list(labels), ensure_ascii=False, indent=0).encode()
    return "".join(label + "\n" for label in labels).encode()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The `mlserve.json` of a version folder: what is known of an exported model.

    `created` is UTC, ISO 8601. Digests are `sha256:<hex>`. `facts` say how each part of the
    pipeline is known; manifests of older versions have none. `pipeline` and `labels_digest` are
    None for a model of tensors. `libraries` are versions by distribution: what trained, saved and
    exported the model. `columns` and `details` are those of `TensorModel`. `has_dependent_rows`
    means that a row's answer depends on the rows beside it, so that requests never share a batch.
    `fetched` says what was fetched from where (`mlserve.remote`), by the option that named it.
    `files` are the digests of every other file of the folder but a signature; None if it was
    exported before manifests had them. `precision` is that of the export, and `own_precision` the
    word for what the backend computes in where that is not fp32. `agreement` is what was measured
    on held-out inputs. `certificate` is None for an export without golden inputs. A model is
    `idempotent` if a request may run twice: asked again, it answers the same and does nothing else.
    """

    mlserve: str
    backend: str
    model: str
    source: str
    created: str
    weights_digest: str
    labels_digest: str | None
    has_random_weights: bool
    pipeline: ImagePipeline | None
    signatures: tuple[Signature, ...]
    facts: Facts = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    has_dependent_rows: bool = False
    fetched: Mapping[str, Any] = field(default_factory=dict)
    files: Digests | None = None
    precision: Precision = Precision.FP32
    agreement: Mapping[str, Any] = field(default_factory=dict)
    certificate: Certificate | None = None
    idempotent: bool = True
    own_precision: str = ""

    @property
    def kind(self) -> Kind:
        """What the model is for its users."""
        return Kind.TENSORS if self.pipeline is None else Kind.IMAGE_CLASSIFIER

    @property
    def computes_in(self) -> str:
        """What the model computes in, in the word that its server has for it, too."""
        return self.own_precision or self.precision.value

    def write_labels(self, folder: Path, labels: Sequence[str]) -> None:
        """Write the labels of an image classifier into `folder`. Raises OSError."""
        if self.pipeline is not None:
            name = LABELS_JSON_NAME if _need_json(labels) else LABELS_NAME
            (folder / name).write_bytes(labels_text(labels))

    def write(self, folder: Path, labels: Sequence[str]) -> None:
        """Write the labels of an image classifier into `folder`, and at last the manifest.

        It lists what is in the folder then. Raises OSError, and ValueError for what is not a file.
        """
        self.write_labels(folder, labels)
        whole = replace(self, files=digests_of(folder, without=BESIDE_THE_MODEL))
        (folder / MANIFEST_NAME).write_text(json.dumps(whole.to_json(), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Read the manifest in `folder`; None if mlserve did not export the model.

        Raises UsageError when the file exists but cannot be read.
        """
        path = folder / MANIFEST_NAME
        try:
            data = json_of(read_plain(path))
            if isinstance(data["format"], int) and data["format"] > _FORMAT:
                raise _newer(path, data, f"manifest format {data['format']}")
            for key in sorted(data.keys() - {item.name for item in fields(cls)} - _DERIVED):
                raise _newer(path, data, repr(shortened(key)))
            return cls.from_json(data)
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
            "kind": self.kind.value,
            "pipeline": None if self.pipeline is None else self.pipeline.to_json(),
            "signatures": [signature.to_json() for signature in self.signatures],
            "facts": facts_to_json(self.facts),
            "columns": {name: list(columns) for name, columns in self.columns.items()},
            "libraries": dict(self.libraries),
            "details": dict(self.details),
            "has_dependent_rows": self.has_dependent_rows,
            "fetched": dict(self.fetched),
            "files": None if self.files is None else digests_to_json(self.files),
            "precision": self.precision.value,
            "agreement": dict(self.agreement),
            "certificate": None if self.certificate is None else self.certificate.to_json(),
            "idempotent": self.idempotent,
            **({"own_precision": self.own_precision} if self.own_precision else {}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Manifest:
        if data["format"] not in range(1, _FORMAT + 1):
            raise ValueError(f"manifest format {data['format']!r} is not known")
        values = {key: value for key, value in data.items() if key not in _DERIVED}
        if data["pipeline"] is not None:
            values["pipeline"] = ImagePipeline.from_json(data["pipeline"])
        columns = data.get("columns", {})
        values["columns"] = {name: tuple(names) for name, names in columns.items()}
        values["signatures"] = tuple(Signature.from_json(item) for item in data["signatures"])
        values["facts"] = facts_from_json(data.get("facts", {}))
        files = data.get("files")
        values["files"] = None if files is None else digests_from_json(files)
        values["precision"] = Precision(data.get("precision", Precision.FP32))
        certificate = data.get("certificate")
        values["certificate"] = None if certificate is None else Certificate.from_json(certificate)
        values["idempotent"] = _flag(data.get("idempotent", True))
        return cls(**values)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


class NewerManifest(UsageError):
    """A version of the model was exported by a newer mlserve, in a format unknown to this one."""


def _newer(path: Path, data: Mapping[str, Any], unknown: str) -> NewerManifest:
    return NewerManifest(
        f"{path} was written by a newer mlserve, {shortened(str(data.get('mlserve')))}: "
        f"{unknown} is not known",
        hint="upgrade mlserve, or choose another version",
    )


def without_manifest(base_path: Path, versions: Sequence[int]) -> tuple[int, ...]:
    """Return the versions without a manifest that are higher than a version with one.

    Where mlserve exported a version, a higher one without `mlserve.json` is most likely still being
    copied. Loaded as a raw model it would have other inputs and outputs than the one it replaces.
    """
    exported = [v for v in versions if (version_folder(base_path, v) / MANIFEST_NAME).exists()]
    return tuple(v for v in versions if v not in exported and v > min(exported, default=v))


@dataclass(frozen=True, slots=True)
class Artifact:
    """One version of a model on disk: the folder `path` of the version `version`.

    `manifest` is None for a model that mlserve did not export.
    """

    path: Path
    model: str
    version: int
    manifest: Manifest | None

    @classmethod
    def open(cls, base_path: Path, model: str, version: int) -> Artifact:
        """Open `base_path/<version>`. Raises UsageError for an unreadable manifest."""
        path = version_folder(base_path, version)
        return cls(path, model, version, Manifest.read(path))

    def digests(self) -> dict[str, str]:
        """Return `sha256:<hex>` of the manifest, which lists the files, and of its certificate.

        By these a client knows the version. A version without a certificate has one digest, and one
        that mlserve did not export, or that is gone, has none.
        """
        try:
            content = read_plain(self.path / MANIFEST_NAME)
            certificate = json_of(content).get("certificate")
        except (OSError, ValueError, AttributeError):
            return {}
        found = {"artifact": digest_of(content)}
        if certificate is not None:
            found["certificate"] = digest_of(json.dumps(certificate, sort_keys=True).encode())
        return found

    @property
    def is_idempotent(self) -> bool:
        """Whether a request may run twice; true of a model that mlserve did not export."""
        return self.manifest is None or self.manifest.idempotent

    def file_faults(self) -> dict[str, str]:
        """Return what is wrong with which file: `is missing`, `was changed`, and so on, by path.

        Reads every file. Empty if they are those that were exported, or if it is not known which
        were: `mlserve` did not export them, or an older one did. Raises UsageError for a folder
        that cannot be read.
        """
        if self.manifest is None or self.manifest.files is None:
            return {}
        try:
            return faults(self.path, self.manifest.files, besides=BESIDE_THE_MODEL)
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be read: {error.strerror}", hint="make the folder readable"
            ) from error

    def require_whole(self) -> None:
        """Raise ModelLoadFailed, naming the file, unless `file_faults` finds nothing."""
        self.require_none(self.file_faults())

    def require_none(self, found: Mapping[str, str]) -> None:
        """Raise ModelLoadFailed for the first of these faults of files, by path."""
        for name, fault in found.items():
            others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise ModelLoadFailed(
                f"{self.path / name} {fault}{others}",
                hint="copy or export this version again; `mlserve models verify` lists its files",
            )

    def labels(self) -> tuple[str, ...]:
        """Return the labels, checked against the manifest's digest and class count.

        A model of tensors has none. Raises UsageError when the file is absent, is not UTF-8 or is
        not the one that was exported.
        """
        if self.manifest is not None and self.manifest.pipeline is None:
            return ()
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
        if self.manifest and self.manifest.pipeline:
            self.manifest.pipeline.full_labels(labels)
        return labels


def _need_json(labels: Sequence[str]) -> bool:
    return any("\n" in label for label in labels)


def _read_labels(path: Path, data: bytes) -> tuple[str, ...]:
    """Parse the output of `labels_text`. Raises UsageError naming the label that is not UTF-8."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start)
        line = data.split(b"\n")[number]
        raise UsageError(
            f"label {number} in {path} is not UTF-8: {line[:_LONGEST]!r}", hint=_EXPORT_AGAIN
        ) from error
    if path.name != LABELS_JSON_NAME:
        return tuple(text.removesuffix("\n").split("\n"))  # splitlines splits at others
    try:
        labels = json_of(text)
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}", hint=_EXPORT_AGAIN) from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UsageError(f"{path} is not a list of strings", hint=_EXPORT_AGAIN)
    return tuple(labels)


def version_of(name: str) -> int | None:
    """Return the version that a folder of this name holds; None if the name is not a version."""
    if not (name.isascii() and name.isdigit()):
        return None
    number = int(name)
    return number if number <= LARGEST_VERSION else None


def folders_by_version(base_path: Path) -> dict[int, list[str]]:
    """Map each version to the names of its folders, the one to use first. Raises OSError.

    Of several names for one number, the shortest is used.
    """
    with os.scandir(base_path) as entries:
        names = sorted((e.name for e in entries if e.is_dir()), key=lambda name: (len(name), name))
    found: dict[int, list[str]] = {}
    for name in names:
        version = version_of(name)
        if version is not None:
            found.setdefault(version, []).append(name)
    return dict(sorted(found.items()))


def version_folder(base_path: Path, version: int) -> Path:
    """Return the folder of that version, or the path it would have."""
    usual = base_path / str(version)
    if usual.is_dir():
        return usual
    try:
        names = folders_by_version(base_path).get(version, [usual.name])
    except OSError:
        return usual
    return base_path / names[0]


def read_plain(path: Path, most: int = LARGEST_PLAIN_FILE) -> bytes:
    """Return a regular file's bytes. Raises OSError; ValueError if too large or not regular.

    A device would be read forever, and a pipe would block until something writes to it.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a regular file")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most >> 20} MiB")
    return data


def json_of(text: str | bytes) -> Any:
    """Parse the text as JSON. Raises ValueError, also for a text that is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
