"""Faults that a certificate must catch, each on a real model and with ONNX Runtime.

What a changed file is caught by is its digest. Here it is also given to the server with a manifest
that fits it, as an export that went wrong would write: then only the certificate can tell.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mlserve import plugins
from mlserve.artifact import MANIFEST_NAME, Artifact, Manifest
from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import GOLDEN_FOLDER, read_golden
from mlserve.certificate.verdict import Verdict, judge
from mlserve.errors import ExportError, ModelLoadFailed
from mlserve.export import export
from mlserve.load_options import LoadOptions, OnDrift
from mlserve.pixel_options import PixelOptions
from mlserve.precision import Precision
from mlserve.preprocessing import Channels, Interpolation, ResizeMode
from mlserve.server.engine.examiner import Examiner
from mlserve.server.models.loading import open_version
from mlserve.server.models.versions import ModelSpec
from mlserve.store import VersionPolicy
from tests.harness.small_network import LABELS, MEAN, STD, request_for, write_network

pytestmark = pytest.mark.framework

MODEL_FILE = "model.onnx"
PIXELS = PixelOptions(mean=MEAN, std=STD)
OTHER_MEAN = (0.485, 0.456, 0.406)
Export = Callable[..., Artifact]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """`network(seed=..., pixels=..., ...)` exports the small network."""

    def make(**options: Any) -> Artifact:
        folder = tmp_path_factory.mktemp("network")
        request = request_for(folder, **{"scale": (0.0, 1.0), "pixels": PIXELS, **options})
        return export(request, "onnxruntime", store=folder / "store")

    return make


@pytest.fixture(scope="module")
def good(network: Export) -> Artifact:
    """The network as it should be."""
    return network()


def pretended(artifact: Artifact, good: Artifact, folder: Path, **fields: Any) -> Artifact:
    """Return the artifact as version 1 in `folder`, with the certificate of the good one.

    Its manifest lists the digests of its files as they are. `fields` are others of the manifest.
    """
    place = folder / "1"
    shutil.copytree(artifact.path, place, ignore=shutil.ignore_patterns(GOLDEN_FOLDER))
    shutil.copytree(good.path / GOLDEN_FOLDER, place / GOLDEN_FOLDER)
    (place / MANIFEST_NAME).unlink()
    labels = (place / "labels.txt").read_text().splitlines()
    changed = replace(manifest(artifact), certificate=certificate(good), **fields)
    changed.write(place, labels)
    return Artifact.open(folder, artifact.model, 1)


def with_model(good: Artifact, folder: Path, change: Callable[[Path], None]) -> Artifact:
    """Return the good artifact as version 1 in `folder`, its model changed and listed so."""
    scratch = folder / "scratch"
    shutil.copytree(good.path, scratch)
    change(scratch / MODEL_FILE)
    return pretended(replace(good, path=scratch), good, folder)


def manifest(artifact: Artifact) -> Manifest:
    assert artifact.manifest is not None
    return artifact.manifest


def certificate(artifact: Artifact) -> Certificate:
    found = manifest(artifact).certificate
    assert found is not None
    return found


def judged(artifact: Artifact, backend: str = "onnxruntime") -> Verdict:
    runner = plugins.backend(backend).load(artifact, LoadOptions(threads=1))
    try:
        return judge(artifact, runner, read_golden(artifact.path), certificate(artifact))
    finally:
        runner.close()


def served(artifact: Artifact, on_drift: OnDrift = OnDrift.REFUSE) -> Any:
    """Load it as a server does. Raises ModelLoadFailed."""
    options = LoadOptions(threads=1, on_drift=on_drift)
    backend = plugins.backend("onnxruntime")
    source = ModelSpec(backend, artifact.model, artifact.path.parent, VersionPolicy(), options, 0.0)
    return open_version(source, artifact.version)


def test_the_honest_artifact_holds(good: Artifact) -> None:
    verdict = judged(good)
    assert verdict.holds
    assert len(verdict.cases) == certificate(good).cases == 16
    loaded = served(good)
    assert loaded.standing.problems == []
    loaded.runner.close()


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"pixels": replace(PIXELS, channels=Channels.BGR)}, id="colours swapped"),
        pytest.param(
            {"pixels": replace(PIXELS, interpolation=Interpolation.NEAREST)}, id="nearest"
        ),
        pytest.param({"pixels": replace(PIXELS, antialias=True)}, id="antialias"),
        pytest.param({"pixels": replace(PIXELS, mode=ResizeMode.SHORTEST_EDGE)}, id="edge"),
        pytest.param({"labels": (*LABELS[1:], LABELS[0])}, id="labels moved by one"),
        pytest.param({"pixels": replace(PIXELS, mean=OTHER_MEAN)}, id="another mean"),
        pytest.param({"seed": 18}, id="another version of the model"),
    ],
)
def test_an_export_that_went_wrong(
    network: Export, good: Artifact, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    artifact = pretended(network(**wrong), good, tmp_path)
    artifact.require_whole()
    assert not judged(artifact).holds
    with pytest.raises(ModelLoadFailed, match="does not give the answers of its certificate"):
        served(artifact)


def flip(name: str, place: int, bit: int) -> Callable[[Path], None]:
    """Return what flips a bit of one weight."""

    def change(path: Path) -> None:
        def flipped(weights: Any) -> None:
            weights.view(np.uint32)[place] ^= np.uint32(1 << bit)

        change_weights(path, name, flipped)

    return change


def change_weights(path: Path, name: str, change: Callable[[Any], None]) -> None:
    model = onnx.load(path)
    found = next(each for each in model.graph.initializer if each.name == name)
    weights = numpy_helper.to_array(found).copy()
    change(weights.reshape(-1))
    found.CopyFrom(numpy_helper.from_array(weights, found.name))
    onnx.save(model, path)


@pytest.mark.parametrize("bit", [22, 23, 25, 30, 31])
@pytest.mark.parametrize("name", ["first", "second", "last"])
def test_a_flipped_bit(good: Artifact, tmp_path: Path, name: str, bit: int) -> None:
    """The highest of the mantissa, three of the exponent, and the sign."""
    artifact = with_model(good, tmp_path, flip(name, 5, bit))
    artifact.require_whole()
    assert not judged(artifact).holds


def test_any_bit_of_a_file_is_caught_by_its_digest(good: Artifact, tmp_path: Path) -> None:
    shutil.copytree(good.path, tmp_path / "1")
    model = tmp_path / "1" / MODEL_FILE
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(ModelLoadFailed, match=MODEL_FILE):
        served(Artifact.open(tmp_path, good.model, 1))


def test_truncated_weights(good: Artifact, tmp_path: Path) -> None:
    """The file is caught by its digest, then by the runtime; lost weights by the certificate."""

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-4000])

    def lose(path: Path) -> None:
        def zeros(weights: Any) -> None:
            weights[-len(weights) // 10 :] = 0

        change_weights(path, "last", zeros)

    shorter = with_model(good, tmp_path / "cut", cut)
    with pytest.raises(ModelLoadFailed, match="onnx"):
        served(shorter)
    assert not judged(with_model(good, tmp_path / "lost", lose)).holds


def test_dynamic_int8(good: Artifact, tmp_path: Path) -> None:
    def quantize(path: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(path, path.with_name("q.onnx"), weight_type=QuantType.QUInt8)
        path.with_name("q.onnx").replace(path)

    artifact = with_model(good, tmp_path, quantize)
    assert not judged(artifact).holds
    loaded = served(artifact, OnDrift.SERVE)
    assert loaded.standing.fault.startswith("16 of 16 golden inputs are answered wrong here")
    loaded.runner.close()


def test_a_layer_that_depends_on_the_batch(good: Artifact, tmp_path: Path, network: Export) -> None:
    """An export finds it. If the model is swapped afterwards, one image alone is still right."""
    with pytest.raises(ExportError, match="depends on its neighbours in the batch"):
        network(is_batch_dependent=True)

    def swap(path: Path) -> None:
        write_network(path, is_batch_dependent=True)

    verdict = judged(with_model(good, tmp_path, swap))
    assert not verdict.holds
    assert all(case.problem.startswith("in a batch of 16: ") for case in verdict.problems)


def test_a_server_asks_in_a_batch_too(good: Artifact, tmp_path: Path) -> None:
    def swap(path: Path) -> None:
        write_network(path, is_batch_dependent=True)

    for artifact in (good, with_model(good, tmp_path, swap)):
        loaded = served(artifact)
        assert not loaded.standing.problems, "alone, each is answered right"
        engine = SimpleNamespace(is_draining=False, unfinished=0)
        models = SimpleNamespace(loaded=lambda loaded=loaded: [loaded])
        examiner: Any = Examiner(engine, models, lambda: None, probe_seconds=0.0)  # type: ignore[arg-type]
        asyncio.run(examiner.ask_due())
        loaded.runner.close()
        if artifact is good:
            assert not loaded.standing.fault
        else:
            assert "in a batch of 2: " in loaded.standing.fault


def test_a_precision_that_is_not_the_certificates(tmp_path: Path) -> None:
    """What OpenVINO would do by itself on a CPU with bf16, were the precision not set."""
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in bf16")
    request = request_for(tmp_path, scale=(0.0, 1.0), pixels=PIXELS)
    exact = export(request, "openvino", store=tmp_path / "store")
    assert judged(exact, "openvino").holds
    lower = pretended(exact, exact, tmp_path / "lower", precision=Precision.BF16)
    verdict = judged(lower, "openvino")
    assert not verdict.holds
    assert verdict.difference > 10 * certificate(exact).tolerance
