"""Whether two versions gave the same answer, and the counts of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlserve.server.rollout.comparison import compare
from mlserve.server.rollout.tally import REMEMBERED, Tally
from mlserve.wire.rollouts import Comparison, Mirrored, RolloutState, Shadow, Side


def ranking(*rows: list[tuple[str, float]]) -> dict[str, Any]:
    labels = np.array([[label.encode() for label, _ in row] for row in rows], dtype=object)
    scores = np.array([[score for _, score in row] for row in rows], dtype=np.float32)
    return {"labels": labels, "scores": scores}


def test_the_best_class_decides_and_the_next_ones_are_told_apart() -> None:
    served = ranking([("horse", 0.9), ("zebra", 0.08), ("ox", 0.02)])
    same = compare(served, ranking([("horse", 0.5), ("ox", 0.3), ("zebra", 0.2)]))
    assert (same.what, same.has_same_top) == ("", True)
    other = compare(served, ranking([("zebra", 0.6), ("horse", 0.3), ("dog", 0.1)]))
    assert other.what == "zebra, not horse"
    assert other.has_same_top is False
    assert other.served == Side("horse", float(np.float32(0.9)))
    assert other.other == Side("zebra", float(np.float32(0.6)))


def test_one_row_of_several_is_enough() -> None:
    served = ranking([("horse", 0.9), ("ox", 0.1)], [("horse", 0.9), ("ox", 0.1)])
    other = ranking([("horse", 0.9), ("ox", 0.1)], [("ox", 0.6), ("horse", 0.4)])
    assert compare(served, other).what == "row 1: ox, not horse"
    fewer = ranking([("horse", 0.9), ("ox", 0.1)])
    assert compare(served, fewer).what == "1 rows, not 2"


def test_two_classes_of_one_label_are_two_classes() -> None:
    served = {**ranking([("crane", 0.9), ("crane", 0.1)]), "indices": np.array([[134, 517]])}
    other = {**ranking([("crane", 0.9), ("crane", 0.1)]), "indices": np.array([[517, 134]])}
    assert compare(served, other).what


def test_tensors_may_differ_within_a_tolerance() -> None:
    served = {"y": np.array([[1000.0, 2.0]], np.float32)}
    assert compare(served, {"y": served["y"] + np.float32(0.5)}).what == ""
    far = compare(served, {"y": served["y"] + np.float32(5)})
    assert far.what.startswith("y differs by ")
    assert (far.served.score, far.other.score) == (1000.0, 1005.0)
    assert compare(served, {"y": served["y"][0]}).what == "y has the shape [2], not [1, 2]"
    assert compare(served, {"z": served["y"]}).what == "there is no output y"
    nan = {"y": np.array([[np.nan]], np.float32)}
    assert compare(nan, nan).what == ""


def test_text_and_whole_numbers_are_exact() -> None:
    served = {"label": np.array([b"a"], object), "p": np.array([0.9], np.float32)}
    other = {"label": np.array([b"b"], object), "p": np.array([0.9], np.float32)}
    assert compare(served, other).what == "label is 'b', not 'a'"
    assert compare(served, {**served, "p": np.array([0.7], np.float32)}).what == ""


def test_counts_by_signature_and_the_latest_disagreements() -> None:
    tally = Tally("version 2")
    served = ranking([("horse", 0.9), ("zebra", 0.1)])
    for number in range(30):
        tally.compared(f"id-{number}", "ranking", compare(served, ranking([("ox", 1.0)])))
    tally.compared("alike", "top_k", compare(served, served))
    tally.failed("top_k", "no time")
    tally.dropped("ranking")
    told = tally.report()
    assert told.counts == Comparison(1, 30, failed=1, dropped=1, tops=31, same_top=1)
    assert (told.signatures["ranking"].differs, told.signatures["top_k"].agrees) == (30, 1)
    assert len(told.last) == REMEMBERED
    assert [told.last[0].request_id, told.last[-1].request_id] == ["id-10", "id-29"]
    assert told.error == "no time"
    assert round(told.counts.share, 3) == 0.968
    low, high = told.counts.interval
    assert low < told.counts.share < high
    shadow = Shadow("m", RolloutState.RUNNING, told)
    assert Shadow.from_json(shadow.to_json()) == shadow
    assert Mirrored.from_json(told.to_json()) == told
    assert "31 compared, 30 differ (96.77%, Wilson, 95 %: " in shadow.lines()[0]
    assert len(shadow.lines()) == 2 + REMEMBERED
