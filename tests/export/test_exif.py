"""`--exif apply`: an older mlserve cannot miss it, and a backend that cannot do it says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlserve.errors import UsageError
from mlserve.export import export
from mlserve.pipeline import Activation, Exif, ImagePipeline
from mlserve.sources import ModelRequest
from mlserve.store import Store

PLAIN = ImagePipeline(8, 8, 1.0, 0.0, Activation.SOFTMAX, 3)


def test_a_pipeline_that_applies_exif_has_a_version_that_an_older_mlserve_refuses() -> None:
    turning = replace(PLAIN, exif=Exif.APPLY)

    assert (PLAIN.to_json()["version"], turning.to_json()["version"]) == (1, 2)
    assert ImagePipeline.from_json(turning.to_json()) == turning
    with pytest.raises(ValueError, match="version 3 is not known"):
        ImagePipeline.from_json({**turning.to_json(), "version": 3})


def test_an_older_manifest_ignores_exif() -> None:
    older = {key: value for key, value in PLAIN.to_json().items() if key != "exif"}

    assert ImagePipeline.from_json(older) == PLAIN


@pytest.mark.parametrize("backend", ["echo", "tfserving"])
def test_a_backend_that_cannot_apply_exif_refuses_at_once_and_says_why(
    backend: str, store: Store, request_echo: ModelRequest
) -> None:
    why = {"echo": "no step for it", "tfserving": "TensorFlow has no operation that reads EXIF"}

    with pytest.raises(UsageError, match=why[backend]) as refused:
        export(replace(request_echo, exif=Exif.APPLY), backend, store=store.root)

    assert "--backend onnxruntime" in (refused.value.hint or "")
    assert store.versions(backend, "echo") == []
