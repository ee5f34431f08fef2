"""The parts of a comparison that are functions: differences, words of the command."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlserve.client.answers import Score
from mlserve.compare.asking import Served
from mlserve.compare.images import score_difference
from mlserve.compare.result import Difference, ImageComparison, ImagesResult, Row
from mlserve.compare.stages import compare_stages, difference
from mlserve.compare.tables import COST_HEADER, cost_rows
from mlserve.compare.targets import ComparedTarget, split
from mlserve.errors import UsageError


def test_unsigned_pixels_are_subtracted_as_numbers() -> None:
    one, other = np.array([[0, 255]], np.uint8), np.array([[255, 255]], np.uint8)

    assert difference(one, other) == Difference(255.0, 127.5)


def test_a_large_array_is_compared_to_its_end() -> None:
    one = np.zeros((1 << 22) + 5, np.uint8)
    other = one.copy()
    other[-1] = 7

    assert difference(one, other) == Difference(7.0, 7 / one.size)


@pytest.mark.parametrize(
    "other", [np.zeros((3, 2)), np.zeros(5), np.full((2, 3), math.nan), np.full((2, 3), math.inf)]
)
def test_what_cannot_be_compared_is_infinitely_far(other: np.ndarray) -> None:
    assert difference(np.zeros((2, 3)), other).largest == math.inf


def test_empty_arrays_are_equal() -> None:
    assert difference(np.zeros((0, 3)), np.zeros((0, 3))) == Difference(0.0, 0.0)


def test_the_order_is_that_of_the_best_classes(tmp_path: Path) -> None:
    for name, scores in (("a", [0.1, 0.5, 0.4]), ("b", [0.15, 0.5, 0.35]), ("c", [0.4, 0.5, 0.1])):
        (tmp_path / name).mkdir()
        for stage in ("decoded", "resized"):
            np.save(tmp_path / name / stage, np.zeros((2, 2, 3)))
        np.save(tmp_path / name / "scores", np.array(scores, np.float32))

    near = compare_stages(tmp_path / "a", tmp_path / "b")
    far = compare_stages(tmp_path / "a", tmp_path / "c")

    assert (near.has_same_top_1, near.has_same_order) == (True, True)
    assert (far.has_same_top_1, far.has_same_order) == (True, False)
    assert near.differences["scores"].largest == pytest.approx(0.05)


def test_a_target_may_name_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    assert split(["echo/m@1", "echo/n", "photos"]) == (["echo/m@1", "echo/n"], ["photos"])
    Path("echo").mkdir()
    Path("echo/n").touch()  # a file of that name is one
    with pytest.raises(UsageError, match="1 of at least 2 targets"):
        split(["echo/m@1", "echo/n", "photos"])


@pytest.mark.parametrize(("same", "shown"), [(3, "100.0%"), (2, "66.6%"), (0, "0.0%")])
def test_agreement_stands_beside_the_times_and_is_never_rounded_up(same: int, shown: str) -> None:
    def target(name: str, agreeing: int) -> ImagesResult:
        rows = [Row(str(at), disagreement=None if at < agreeing else "other") for at in range(3)]
        return ImagesResult(target=ComparedTarget(name, None), rows=rows)

    targets = [target("a", 3), target("b", same)]
    found = ImageComparison(images=("0", "1", "2"), targets=targets, tolerance=0.1, runs=1)
    assert COST_HEADER[:4] == ("target", "precision", "agreement", "p50 ms")
    assert [row[:3] for row in cost_rows(found)] == [["a", "-", "reference"], ["b", "-", shown]]


def _scores(*pairs: tuple[str, float]) -> list[Score]:
    return [Score(label, score, None) for label, score in pairs]


def test_scores_are_compared_label_by_label() -> None:
    one = _scores(("crane", 0.5), ("ox", 0.3), ("crane", 0.1))
    other = _scores(("ox", 0.4), ("crane", 0.35), ("crane", 0.15))

    assert score_difference(one, other) == pytest.approx(0.15)


def test_a_label_that_one_does_not_list_is_at_most_the_other_s_last() -> None:
    assert score_difference(
        _scores(("a", 0.5), ("b", 0.3)), _scores(("a", 0.5), ("c", 0.1))
    ) == pytest.approx(0.2)


def test_labels_alone_have_no_score_difference() -> None:
    assert score_difference([], _scores(("a", 1.0))) is None


def test_a_backend_s_name_is_a_target_and_a_path_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("echo", "a:1"):
        (tmp_path / name).touch()

    assert split(["echo", "h:1", "a:1", "./echo"]) == (["echo", "h:1"], ["a:1", "./echo"])


def test_a_server_that_is_gone_has_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()

    assert Served(ComparedTarget("gone", None), "127.0.0.1:1", process.pid).rss() is None
