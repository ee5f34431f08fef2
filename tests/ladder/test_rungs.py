"""Which versions can be a ladder, and why others cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlserve.artifact import digest_of
from mlserve.errors import MlserveError, ModelLoadFailed, NotFound, UsageError
from mlserve.ladder.rungs import Reference, read_ladder, scores_of, split
from mlserve.load_options import LadderPolicy
from mlserve.precision import Precision
from mlserve.store import Store
from mlserve.tensors import DType, Signature, TensorSpec
from tests.harness.echo import manifest, put_version, tensors_manifest
from tests.harness.ladder import certificate_of

ROW = (TensorSpec("x", DType.FLOAT32, (None, 4)),)
LADDER = "echo/m@2,echo/m@1"


def signature(*outputs: TensorSpec) -> Signature:
    return Signature("serving_default", ROW, outputs)


PROBABILITIES = TensorSpec("probabilities", DType.FLOAT32, (None, 3))
INT8 = {"precision": Precision.INT8, "certificate": certificate_of(0.01)}


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., None]:
    """Writes a version of the model `m` of the backend `echo`, with these fields of a manifest."""

    def put(version: int, base: Any = None, **fields: Any) -> None:
        folder = tmp_path / "echo" / "m" / str(version)
        put_version(folder, manifest=replace(base or manifest(), **fields))

    return put


def refusal(store: Path, text: str = LADDER) -> MlserveError:
    with pytest.raises(MlserveError) as caught:
        read_ladder(text, Store(store), None)
    return caught.value


def test_rungs_are_named_by_their_precisions(put: Any, tmp_path: Path) -> None:
    put(1)
    put(2, **INT8)
    ladder = read_ladder(LADDER, Store(tmp_path), LadderPolicy.ANSWER)
    assert [(rung.name, rung.difference) for rung in ladder.rungs] == [
        ("int8", 0.01),
        ("fp32", None),
    ]
    assert ladder.top.reference == Reference("echo", "m", 1)
    assert ladder.policy is LadderPolicy.ANSWER


def test_rungs_of_one_precision_are_named_by_what_differs(put: Any, tmp_path: Path) -> None:
    put(1)
    put(2, certificate=certificate_of(0.01))
    names = [rung.name for rung in read_ladder(LADDER, Store(tmp_path), None).rungs]
    assert names == ["echo/fp32/m/2", "echo/fp32/m/1"]


def test_a_rung_without_a_certificate_is_refused(put: Any, tmp_path: Path) -> None:
    put(1)
    put(2, precision=Precision.INT8)
    error = refusal(tmp_path)
    assert error.message == (
        "echo/m@2 has no certificate, so nobody knows where its labels can change"
    )
    assert "mlserve export --backend echo --model m --precision int8" in (error.hint or "")


def test_a_rung_that_could_never_be_certain_is_refused(put: Any, tmp_path: Path) -> None:
    put(1)
    put(2, precision=Precision.INT8, certificate=certificate_of(0.5))
    assert (
        "only certain with a margin above 1, and no margin is above 1" in refusal(tmp_path).message
    )


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"pipeline": replace(manifest().pipeline, height=9)}, "image pipelines"),  # type: ignore[type-var]
        ({"signatures": (signature(PROBABILITIES),)}, "signatures"),
        ({"labels_digest": digest_of(b"other labels")}, "labels"),
        ({"has_random_weights": True}, "weights"),
    ],
)
def test_rungs_of_different_models_are_refused(
    put: Any, tmp_path: Path, fields: Any, what: str
) -> None:
    put(1)
    put(2, **{**INT8, **fields})
    assert refusal(tmp_path).message == (
        f"echo/m@2 and echo/m@1 are not rungs of one ladder: their {what} differ"
    )


class TestTensors:
    def test_probabilities_are_scores(self, put: Any, tmp_path: Path) -> None:
        put(1, tensors_manifest(), signatures=(signature(PROBABILITIES),))
        put(2, tensors_manifest(), signatures=(signature(PROBABILITIES),), **INT8)
        assert read_ladder(LADDER, Store(tmp_path), None).top.name == "fp32"

    def test_a_model_without_scores_is_refused(self, put: Any, tmp_path: Path) -> None:
        put(1, tensors_manifest())
        put(2, tensors_manifest(), **INT8)
        error = refusal(tmp_path)
        assert isinstance(error, ModelLoadFailed)
        assert "its signature 'serving_default' has no scores of classes" in error.message
        assert "probabilities or scores" in (error.hint or "")

    def test_rows_that_belong_together_are_refused(self, put: Any, tmp_path: Path) -> None:
        base = tensors_manifest(has_dependent_rows=True)
        put(1, base, signatures=(signature(PROBABILITIES),))
        put(2, base, signatures=(signature(PROBABILITIES),), **INT8)
        assert "its rows depend on each other" in refusal(tmp_path).message

    @pytest.mark.parametrize(
        ("output", "has_scores"),
        [
            (PROBABILITIES, True),
            (TensorSpec("scores", DType.FLOAT64, (None, None)), True),
            (TensorSpec("scores", DType.FLOAT32, (None, 1)), False),
            (TensorSpec("scores", DType.INT64, (None, 3)), False),
            (TensorSpec("scores", DType.FLOAT32, (None,)), False),
            (TensorSpec("scores", DType.FLOAT32, (1, 3)), False),
            (TensorSpec("scores", DType.FLOAT32, None), False),
            (TensorSpec("y", DType.FLOAT32, (None, 3)), False),
        ],
        ids=str,
    )
    def test_scores_are_floats_of_several_classes(
        self, output: TensorSpec, has_scores: bool
    ) -> None:
        assert (scores_of(signature(output)) is not None) is has_scores


def test_a_version_that_is_not_there_is_named(put: Any, tmp_path: Path) -> None:
    put(1)
    error = refusal(tmp_path)
    assert isinstance(error, NotFound)
    assert error.message == "no version 2 of 'm' was exported for echo (there: 1)"


def test_a_folder_without_a_manifest_is_refused(put: Any, tmp_path: Path) -> None:
    put(1)
    put_version(tmp_path / "echo" / "m" / "2")
    assert "echo/m@2 has no manifest" in refusal(tmp_path).message


@pytest.mark.parametrize(
    "text", ["m@1", "echo/m", "echo/m@x", "echo/m@", "/m@1", "echo/@1", "int8"]
)
def test_what_is_not_a_version_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="is not a"):
        Reference.parse(text)


@pytest.mark.parametrize("text", ["", "int8", "int8,", ",", "int8,int8"])
def test_what_is_not_a_ladder_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="ladder"):
        split(text)
