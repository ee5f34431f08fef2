"""What is certified: exported versions, or an endpoint that is held to the certificate of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mlserve.client.endpoint import ConnectionOptions
from mlserve.compare.targets import ComparedTarget
from mlserve.errors import UsageError
from mlserve.inventory import ModelFolder, Reference, StoredVersion, model_folders
from mlserve.load_options import LoadOptions, OnDrift
from mlserve.served_model import ServedModel
from mlserve.sources import Kind
from mlserve.store import Store, VersionPolicy


@dataclass(frozen=True, slots=True)
class Subject:
    """A version, and what answers for it: a server to be started, or an endpoint.

    `options` are those of the client of an endpoint.
    """

    version: StoredVersion
    target: ComparedTarget
    options: ConnectionOptions = field(default_factory=ConnectionOptions)

    @property
    def name(self) -> str:
        """What it is called: `onnxruntime/m@1`, or the endpoint."""
        return self.target.name

    @property
    def takes_images(self) -> bool:
        """Whether it was exported as a classifier of images."""
        manifest = self.version.artifact.manifest
        return manifest is not None and manifest.kind is Kind.IMAGE_CLASSIFIER

    def at(self, endpoint: str, options: ConnectionOptions) -> Subject:
        """Return the endpoint, held to the certificate of this version."""
        number = options.get("version")
        name = endpoint if number is None else f"{endpoint}, version {number}"
        target = ComparedTarget(name, self.target.model, endpoint=endpoint)
        return Subject(self.version, target, options)


def subjects(
    store: Path | None, *, backend: str | None, model: str | None, version: int | None
) -> list[Subject]:
    """Return the versions that the options name, of every backend and model that they leave open.

    Without `version`, each is the one that a server would take. Raises NotFound if there is none.
    """
    folders = model_folders(Store(store), backend=backend, model=model)
    if not folders:
        Reference().find(Store(store))  # raises, and says how to export one
    return [_subject(folder, version) for folder in folders]


def subject_named(reference: str, store: Path | None) -> Subject:
    """Return the version that a reference such as `tfserving/m@1` names. Raises as `find` does."""
    asked = Reference.parse(reference)
    return _subject(asked.find(Store(store)), asked.version)


def only_one(found: list[Subject], what: str) -> Subject:
    """Return the only one of them. Raises UsageError if there are several."""
    if len(found) > 1:
        listed = ", ".join(str(subject.version) for subject in found)
        raise UsageError(
            f"{what} is held to one certificate, and several versions fit: {listed}",
            hint="name one with --backend and --model",
        )
    return found[0]


def require_one_model(found: list[Subject]) -> None:
    """Raise UsageError unless all are versions of one model."""
    models = sorted({str(subject.target.model) for subject in found})
    if len(models) > 1:
        raise UsageError(
            f"files are asked about with one model, and {len(models)} were exported: "
            + ", ".join(models),
            hint=f"name one, for example --model {models[0]}",
        )


def _subject(folder: ModelFolder, number: int | None) -> Subject:
    version = folder.usual() if number is None else folder.version(number)
    version.require_complete()
    artifact = version.artifact
    policy = VersionPolicy((artifact.version,))
    # A version that has drifted is what this looks for: its server must start all the same.
    served = ServedModel(
        backend=folder.backend,
        model=folder.model,
        base_path=folder.base_path,
        versions=policy,
        options=LoadOptions(on_drift=OnDrift.SERVE),
        expected=policy.versions,
        has_random_weights=artifact.manifest is not None and artifact.manifest.has_random_weights,
    )
    return Subject(version, ComparedTarget(str(version), folder.model, served))
