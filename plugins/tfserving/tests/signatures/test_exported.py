"""Exported as models of tensors, these models keep each of their signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlserve_tfserving.backend import TFServingBackend

from mlserve.artifact import Artifact
from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.sources import Kind, ModelRequest

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("name", ["half_plus_two", "odd", "new"])
def test_an_export_serves_what_the_original_does(models: Path, name: str, tmp_path: Path) -> None:
    original = models / name / "1"
    request = ModelRequest(name, weights=str(original), kind=Kind.TENSORS)
    artifact = export(request, store=tmp_path / "store")
    ours, theirs = (
        TFServingBackend().load(each, LoadOptions(threads=1))
        for each in (artifact, Artifact(original, name, 1, None))
    )
    assert ours.signatures == theirs.signatures
    assert artifact.manifest is not None
    assert {s.name for s in artifact.manifest.signatures} == set(theirs.signatures)
    assert _methods(ours.signatures) == _methods(theirs.signatures)
    if name == "half_plus_two":
        assert _methods(ours.signatures) >= {"predict", "classify", "regress"}
        assert ours.run("asset", {})["text"] == b"from an asset\n"


def _methods(signatures: Any) -> set[str]:
    return {signature.method for signature in signatures.values()}
