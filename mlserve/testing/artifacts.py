"""Export a model into the store's layout, as `mlserve export` does."""

from __future__ import annotations

from pathlib import Path

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.export import manifest_of
from mlserve.incoming import incoming_folder
from mlserve.sources import Classifier, Model


def exported(backend: str, model: Model, base_path: Path, version: int = 1) -> Artifact:
    """Export `model` with that backend and publish it as `base_path/<version>`.

    Raises what the backend's `export` raises; nothing is left behind then.
    """
    with incoming_folder(base_path) as incoming:
        signatures = plugins.backend(backend).export(model, incoming.path)
        labels = model.labels if isinstance(model, Classifier) else ()
        manifest_of(model, backend, signatures).write(incoming.path, labels)
        incoming.publish(version)
    return Artifact.open(base_path, model.name, version)
