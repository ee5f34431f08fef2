"""One small image classifier in two precisions: the rungs of a ladder, computed by hand.

The logits are the mean colours of an 8x8 image times a matrix. The cheap rung has that matrix
rounded on purpose, so that its label is another one near the border of two colours.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from mlserve.artifact import MANIFEST_NAME, Artifact, Manifest
from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import GoldenCase, write_golden
from mlserve.digests import digests_of
from mlserve.pipeline import RANKING
from mlserve.precision import Precision
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from mlserve.testing.artifacts import exported
from mlserve.testing.colours import LABELS, colour_classifier

Array = np.ndarray[Any, Any]

BACKEND, MODEL = "onnxruntime", "colours"
WEIGHTS = np.array([[20.3, 0.0, 0.0], [0.0, 19.1, 0.4], [0.2, 0.0, 20.9]], np.float32)
ROUNDED = np.round(WEIGHTS / 2) * 2
_LEVELS = (0, 60, 118, 122, 126, 128, 130, 134, 190, 255)
COLOURS = [(r, g, b) for r in _LEVELS for g in _LEVELS for b in _LEVELS]


def png(colour: Sequence[int]) -> bytes:
    """Return an image of that colour."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), tuple(colour)).save(file, "PNG")
    return file.getvalue()


def scores(colours: Sequence[Sequence[int]], weights: Array) -> Array:
    """Return float64[N, 3]: the scores of images of these colours."""
    logits = np.array(colours, np.float64) / 255 @ weights
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


TOLERANCE = float(np.abs(scores(COLOURS, WEIGHTS) - scores(COLOURS, ROUNDED)).max()) * 1.01
"""The largest difference of the two rungs on COLOURS, and a little."""


def label(colour: Sequence[int], weights: Array = WEIGHTS) -> str:
    """Return the label of an image of that colour."""
    return LABELS[int(scores([colour], weights)[0].argmax())]


def margin(colour: Sequence[int]) -> float:
    """Return the margin of the cheap rung's two best scores."""
    second, best = np.sort(scores([colour], ROUNDED)[0])[-2:]
    return float(best - second)


CLEAR = (255, 0, 0)
"""The cheap rung is certain of this one."""
FLIPPED = next(c for c in COLOURS if label(c) != label(c, ROUNDED))
"""The two rungs have different labels for this one."""


def write_rungs(store: Path, scratch: Path) -> tuple[Artifact, Artifact]:
    """Write version 1, fp32, and version 2, int8, into the store, both with a certificate."""
    return (
        write_rung(store, scratch, 1, WEIGHTS, Precision.FP32, 1e-4),
        write_rung(store, scratch, 2, ROUNDED, Precision.INT8, TOLERANCE),
    )


def write_rung(
    store: Path,
    scratch: Path,
    version: int,
    weights: Array,
    precision: Precision,
    tolerance: float | None = None,
) -> Artifact:
    """Export the classifier with that matrix; with a certificate if it has a tolerance."""
    file = scratch / f"{MODEL}-{version}.onnx"
    _write_model(file, weights)
    model = colour_classifier(file, framework="onnx")
    artifact = exported(BACKEND, model, store / BACKEND / MODEL, version)
    mark(artifact, precision=precision)
    if tolerance is not None:
        cases = [_golden(colour) for colour in (CLEAR, (0, 255, 0), (30, 30, 200))]
        certify(artifact, tolerance, cases)
    return Artifact.open(artifact.path.parent, MODEL, version)


def certify(artifact: Artifact, tolerance: float, cases: Sequence[GoldenCase]) -> None:
    """Write golden inputs and a certificate into an exported version."""
    write_golden(cases, artifact.path)
    changed = Artifact.open(artifact.path.parent, artifact.model, artifact.version)
    files = digests_of(artifact.path, without=MANIFEST_NAME)
    mark(changed, certificate=certificate_of(tolerance, len(cases)), files=files)


def certificate_of(tolerance: float, cases: int = 0) -> Certificate:
    """Return the certificate of so many golden inputs."""
    return Certificate("numpy", cases, tolerance, tolerance, None, None, "a test")


def mark(artifact: Artifact, **fields: Any) -> None:
    """Change fields of the manifest of an exported version."""
    manifest = artifact.manifest
    assert manifest is not None
    changed: Manifest = replace(manifest, **fields)
    text = json.dumps(changed.to_json(), indent=2)
    (artifact.path / "mlserve.json").write_text(text)


def _write_model(file: Path, weights: Array) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["scores"]),
    ]
    pixels, outputs = ("pixels", ["N", 8, 8, 3]), ("scores", ["N", len(LABELS)])
    _save(file, nodes, pixels, outputs, weights)


def write_table_rungs(store: Path, name: str = "table", golden_scale: float = 1.0) -> None:
    """Write the same two rungs as a model of tensors: `x` [N, 3] to `probabilities` [N, 3].

    The answers to their golden inputs are multiplied by `golden_scale`.
    """
    for version, weights, precision, tolerance in (
        (1, WEIGHTS, Precision.FP32, 1e-4),
        (2, ROUNDED, Precision.INT8, TOLERANCE),
    ):
        folder = store / BACKEND / name / str(version)
        folder.mkdir(parents=True)
        nodes = [
            helper.make_node("MatMul", ["x", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], [_OUTPUT]),
        ]
        _save(folder / "model.onnx", nodes, ("x", ["N", 3]), (_OUTPUT, ["N", 3]), weights)
        Manifest(
            mlserve="0",
            backend=BACKEND,
            model=name,
            source="a test",
            created="",
            weights_digest="",
            labels_digest=None,
            has_random_weights=False,
            pipeline=None,
            signatures=(_TABLE,),
            precision=precision,
        ).write(folder, ())
        x = np.array([CLEAR], np.float32) / 255
        answer = {_OUTPUT: scores([CLEAR], WEIGHTS).astype(np.float32) * golden_scale}
        case = GoldenCase("row", DEFAULT_SIGNATURE, {"x": x}, answer, answer, 0.5)
        certify(Artifact.open(folder.parent, name, version), tolerance, [case])


_OUTPUT = "probabilities"
_TABLE = Signature(
    DEFAULT_SIGNATURE,
    (TensorSpec("x", DType.FLOAT32, (None, 3)),),
    (TensorSpec(_OUTPUT, DType.FLOAT32, (None, 3)),),
)


def _save(file: Path, nodes: Any, given: Any, output: Any, weights: Array) -> None:
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (given, output)]
    initial = [numpy_helper.from_array(weights.astype(np.float32), "weights")]
    graph = helper.make_graph(nodes, MODEL, infos[:1], infos[1:], initial)
    opset = helper.make_operatorsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(file))


def _golden(colour: Sequence[int]) -> GoldenCase:
    image = np.empty(1, object)
    image[0] = png(colour)
    found = scores([colour], WEIGHTS).astype(np.float32)
    expected = {"scores": found, "label": np.array([label(colour).encode()], object)}
    return GoldenCase(str(colour), RANKING, {"image": image}, expected, expected, 0.5)
