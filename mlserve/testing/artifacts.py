"""Export a classifier into the store's layout, as `mlserve export` does."""

from __future__ import annotations

from pathlib import Path

from mlserve import plugins
from mlserve.artifact import Artifact, Manifest, digest_of, labels_text
from mlserve.sources import Classifier
from mlserve.store import incoming_folder


def exported(backend: str, model: Classifier, base_path: Path, version: int = 1) -> Artifact:
    """Export `model` with that backend and publish it as `base_path/<version>`.

    Raises what the backend's `export` raises; nothing is left behind then.
    """
    with incoming_folder(base_path) as incoming:
        signatures = plugins.backend(backend).export(model, incoming.path)
        Manifest(
            mlserve="0",
            backend=backend,
            model=model.name,
            source=model.source,
            created="2026-01-01T00:00:00+00:00",
            weights_digest=model.weights_digest,
            labels_digest=digest_of(labels_text(model.labels)),
            has_random_weights=model.has_random_weights,
            pipeline=model.pipeline,
            signatures=tuple(signatures),
            facts=model.facts,
        ).write(incoming.path, model.labels)
        incoming.publish(version)
    return Artifact.open(base_path, model.name, version)
