"""What a certification says, in words and as data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from mlserve.certificate.certificate import Certificate
from mlserve.certificate.verdict import CaseVerdict, Verdict
from mlserve.certify.result import Certified, FilesResult, GoldenResult, Outcome, Problem
from mlserve.certify.run import golden_result
from mlserve.cli.app import app

GOLDEN = GoldenResult("TensorFlow 2.21", 64, 64, 3e-6, 1e-4, without_labels=False)
FOUND = Certified("onnxruntime/m@1", "onnxruntime/m@1", "ONNX Runtime 1.27; fp32; CPU", GOLDEN)

BOUND = "a label can change only where the two best are closer than 6e-6"


def test_a_version_that_holds_is_said_to_in_three_sentences() -> None:
    margins = [*[0.5] * 4_999, 5.9e-6]
    found = replace(FOUND, files=FilesResult("image", 5_000, margins=margins))
    assert list(found.lines()) == [
        "onnxruntime/m@1 (ONNX Runtime 1.27; fp32; CPU): holds",
        "  identical on 64 of 64 golden inputs, against TensorFlow 2.21",
        "  largest score change 3e-6; 0.0001 is allowed",
        f"  {BOUND}: 1 of your 5,000 images",
    ]
    assert found.to_json()["files"]["near"] == 1


def test_without_images_nothing_is_said_of_them() -> None:
    assert list(FOUND.lines())[-1].endswith("closer than 6e-6")


def test_where_an_answer_has_no_two_scores_it_is_not_counted() -> None:
    found = replace(FOUND, files=FilesResult("image", 3, margins=[0.5, 0.5]))
    assert list(found.lines())[-1].endswith("closer than 6e-6")
    assert found.to_json()["files"]["near"] is None
    refused = replace(FOUND, files=FilesResult("image", 3, refused=1, margins=[0.5, 0.5]))
    assert list(refused.lines())[-1].endswith("6e-6: 0 of your 2 images")


def test_a_model_of_tensors_has_no_labels_to_change() -> None:
    golden = replace(GOLDEN, reference="scikit-learn 1.9", without_labels=True)
    assert list(replace(FOUND, golden=golden).lines())[1:] == [
        "  within the tolerance on 64 of 64 golden inputs, against scikit-learn 1.9",
        "  largest difference 3e-6; 0.0001 is allowed",
    ]


def test_what_differs_is_told_and_the_rest_counted() -> None:
    problems = [Problem(f"crop {n}", "scores differ by 0.3") for n in range(7)]
    found = replace(FOUND, golden=replace(GOLDEN, same=60, difference=0.3, problems=problems))
    lines = list(found.lines())
    assert found.outcome is Outcome.DRIFTED
    assert lines[0].endswith(": drifted")
    assert lines[1].startswith("  identical on 60 of 64 golden inputs")
    assert lines[4] == "    crop 0: scores differ by 0.3"
    assert lines[-1] == "    and 2 more; --output json lists them all"


def test_files_without_another_version_prove_nothing() -> None:
    files = FilesResult("image", 5, margins=[0.5] * 5)
    found = Certified("m", "m", files=files)
    assert found.outcome is Outcome.NOT_CHECKED
    compared = replace(files, against="tfserving/m@1", same=5, difference=0.0, tolerance=1e-4)
    assert replace(found, files=compared).outcome is Outcome.HOLDS
    assert replace(found, is_failed=True).outcome is Outcome.FAILED


def test_labels_that_changed_and_inputs_without_an_answer_are_not_the_same() -> None:
    certificate = Certificate("TensorFlow", 2, 1e-4, 1e-6, 2, 0.1, "a CPU")
    alone = CaseVerdict("a", 1e-6, "scores", is_label_changed=False, problem="")
    wrong = CaseVerdict("b", 0.3, "scores", is_label_changed=True, problem="another label")
    found = golden_result(Verdict((alone, wrong)), certificate)
    assert (found.cases, found.same, found.difference, found.bound) == (2, 1, 0.3, 0.6)
    assert not found.holds
    silent = CaseVerdict("c", math.inf, "", is_label_changed=False, problem="no answer")
    found = golden_result(Verdict((alone, silent)), certificate)
    assert (found.same, found.to_json()["largest_difference"]) == (1, None)
    assert list(found.lines("")) == ["identical on 1 of 2 golden inputs, against TensorFlow"]


def test_an_int8_version_is_held_to_its_own_answers_too() -> None:
    golden = GoldenResult(
        "TensorFlow 2.21", 64, 50, 0.4, 0.8, without_labels=False, own_tolerance=0.02
    )
    said = list(golden.lines(""))
    own = "0.02 from its own answers at the export"
    assert said[1] == f"largest score change 0.4; 0.8 is allowed from them, and {own}"
    assert golden.to_json()["own_tolerance"] == 0.02


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (1.04e-4, "largest score change 0.000104; 0.0001 is allowed"),
        (9.99e-5, "largest score change 9.99e-5; 0.0001 is allowed"),
        (1e-4, "largest score change 0.0001; 0.0001 is allowed"),
        (math.nextafter(1e-4, 1), "largest score change 0.00010000000000000002; 0.0001 is allowed"),
    ],
)
def test_the_figures_show_which_is_larger(difference: float, said: str) -> None:
    golden = GoldenResult("TensorFlow", 9, 9, difference, 1e-4, without_labels=False)
    assert list(golden.lines(""))[1] == said


def test_ctrl_c_tells_what_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = GoldenResult("TensorFlow", 9, 9, 1e-6, 1e-4, without_labels=False)

    def interrupted(*_: object) -> Iterator[Certified]:
        yield Certified("m@1", "m@1", golden=checked)
        raise KeyboardInterrupt

    monkeypatch.setattr("mlserve.certify.run.certify", interrupted)
    monkeypatch.setattr("mlserve.certify.subjects.subjects", lambda *_, **__: [None, None])
    done = CliRunner().invoke(app, ["certify", "--output", "json"])
    assert done.exit_code == 130
    found = json.loads(done.stdout)
    assert (found["holds"], found["is_whole"], len(found["versions"])) == (False, False, 1)
    assert done.stderr == "interrupted after 1 of 2 versions\n"
