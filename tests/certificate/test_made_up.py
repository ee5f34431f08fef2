"""Which models get a certificate, what is kept for it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.artifact import Artifact, Manifest
from mlserve.certificate.golden import read_golden
from mlserve.certificate.golden_inputs import ROWS
from mlserve.certificate.making import certified
from mlserve.certificate.verdict import margin_of
from mlserve.errors import ExportError, InvalidInput
from mlserve.export import manifest_of
from mlserve.precision import Precision
from mlserve.sources import ModelRequest, Reference, TensorModel
from mlserve.tensors import DType, Signature, TensorSpec

Run = Callable[[Any], Any]
WRONG = "does not give the answers of NumPy"


def signature(name: str, dtype: DType = DType.FLOAT32) -> Signature:
    return Signature(
        name, (TensorSpec("x", dtype, (None, 4)),), (TensorSpec("y", dtype, (None, None)),)
    )


class Runs:
    """A Runner and a reference: a function for each signature."""

    def __init__(self, runs: Mapping[str, Run], dtype: DType) -> None:
        self._runs = runs
        self.signatures = {name: signature(name, dtype) for name in runs}

    def run(self, name: str, inputs: Any, deadline: Any = None) -> Any:
        return {"y": self._runs[name](inputs["x"])}

    def close(self) -> None:
        """It holds nothing."""


def certify(
    folder: Path,
    reference: Mapping[str, Run],
    artifact: Mapping[str, Run] | None = None,
    precision: Precision = Precision.FP32,
    dtype: DType = DType.FLOAT32,
) -> Manifest:
    """Certify a model of `reference`, exported as `artifact`; by default it is the same."""
    folder.mkdir(exist_ok=True)
    theirs, ours = Runs(reference, dtype), Runs(artifact or reference, dtype)
    model = TensorModel(
        name="m",
        content=None,
        framework="numpy",
        signatures=tuple(theirs.signatures.values()),
        source="a test",
        weights_digest="sha256:",
        reference=Reference("NumPy", theirs.run),
    )
    manifest = manifest_of(model, "numpy", model.signatures)
    manifest = replace(manifest, precision=precision)
    return certified(ModelRequest("m"), model, Artifact(folder, "m", 1, manifest), manifest, ours)


def why_none(manifest: Manifest) -> str:
    assert manifest.certificate is None
    return manifest.facts["certificate"].why


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16, Precision.BF16])
@pytest.mark.parametrize("wrong", [lambda x: x * np.nan, lambda x: x[:, :2], lambda x: x / 0.0])
def test_no_precision_allows_an_infinite_difference(
    tmp_path: Path, precision: Precision, wrong: Run
) -> None:
    with np.errstate(divide="ignore"), pytest.raises(ExportError, match=WRONG):
        certify(tmp_path, {"f": lambda x: x}, {"f": wrong}, precision)


def test_a_model_of_float16_may_differ_by_its_steps(tmp_path: Path) -> None:
    step = np.float16(1 + 2**-10)
    manifest = certify(tmp_path, {"f": lambda x: x}, {"f": lambda x: x * step}, dtype=DType.FLOAT16)
    assert manifest.certificate is not None
    assert manifest.certificate.tolerance == pytest.approx(2**-9)
    with pytest.raises(ExportError, match=WRONG):
        certify(
            tmp_path / "wrong",
            {"f": lambda x: x},
            {"f": lambda x: x * np.float16(1.01)},
            dtype=DType.FLOAT16,
        )


def test_a_signature_that_gives_two_answers_is_left_out(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    runs = {"f": lambda x: x, "sample": lambda x: x + random.normal(size=x.shape)}
    manifest = certify(tmp_path, runs)
    assert manifest.certificate is not None
    assert {case.signature for case in read_golden(tmp_path)} == {"f"}
    only = {"sample": runs["sample"]}
    assert why_none(certify(tmp_path / "only", only)).endswith("two answers to the same input")


def test_answers_that_are_seldom_another_are_found_too(tmp_path: Path) -> None:
    asked = []

    def seldom(x: Any) -> Any:
        asked.append(x)
        return x + (len(asked) % (ROWS + 5) == 0)

    assert why_none(certify(tmp_path, {"f": seldom})).endswith("two answers to the same input")


def test_large_answers_are_kept_as_far_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = []

    def large(x: Any) -> Any:
        most.append(len(x))
        return np.repeat(x, 1000, axis=1)

    monkeypatch.setattr("mlserve.certificate.golden_inputs._MOST_BYTES", 100_000)
    manifest = certify(tmp_path, {"f": large})
    assert manifest.certificate is not None
    assert manifest.certificate.cases == len(read_golden(tmp_path)) == 3
    assert max(most) == 3, "more than were kept were never asked about at once"

    monkeypatch.setattr("mlserve.certificate.golden_inputs._MOST_BYTES", 10_000)
    assert "an input and its answers take over" in why_none(
        certify(tmp_path / "none", {"f": large})
    )


def test_a_model_that_refuses_made_up_inputs_has_no_certificate(tmp_path: Path) -> None:
    def refuse(x: Any) -> Any:
        raise InvalidInput("x is not a known word")

    why = why_none(certify(tmp_path, {"f": refuse}))
    assert why == "none: the model refuses made-up inputs (x is not a known word)"


@pytest.mark.parametrize("scores", [[np.nan, 0.5], [np.inf, 0.5], [np.inf, np.inf]])
def test_scores_that_are_not_finite_have_no_margin(scores: Any) -> None:
    assert margin_of({"scores": np.array([scores])}) is None
