"""Whether two versions gave the same answer, and the counts of it."""

from __future__ import annotations

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mlserve.server.engine.work import Kept
from mlserve.server.rollout.comparison import compare
from mlserve.server.rollout.tally import REMEMBERED, Tally
from mlserve.wire.rollouts import Comparison, Mirrored, RolloutState, Shadow, Side


def ranking(*rows: list[tuple[str, float]]) -> dict[str, Any]:
    labels = np.array([[label.encode() for label, _ in row] for row in rows], dtype=object)
    scores = np.array([[score for _, score in row] for row in rows], dtype=np.float32)
    if not rows:
        labels, scores = labels.reshape(0, 2), scores.reshape(0, 2)
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


def text(*values: str | bytes) -> Any:
    return np.array(values, dtype=object)


def floats(*values: float, of: Any = np.float32) -> Any:
    return np.array(values, of)


NAN = float("nan")
DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an output is missing": (
        {"y": floats(1.0), "z": floats(1.0)},
        {"y": floats(1.0)},
        "there is no output z",
    ),
    "there is one more": (
        {"y": floats(1.0)},
        {"y": floats(1.0), "z": floats(1.0)},
        "there is also an output z",
    ),
    "text and numbers": ({"y": floats(1.0)}, {"y": text("1.0")}, "y is text, not numbers"),
    "numbers and text": ({"y": text("1.0")}, {"y": floats(1.0)}, "y is numbers, not text"),
    "NaN in one": ({"y": floats(1.0, 2.0)}, {"y": floats(1.0, NAN)}, "y is NaN in other places"),
    "NaN beside a label": (
        {"label": text("a"), "p": floats(0.5)},
        {"label": text("a"), "p": floats(NAN)},
        "p is NaN in other places",
    ),
    "NaN is no best score": (
        ranking([("a", 0.9), ("b", 0.1)]),
        ranking([("a", NAN), ("b", NAN)]),
        "a with the score NaN, not a",
    ),
    "a later row": (
        {"label": text("a", "b"), "scores": floats(0.5, 0.5)},
        {"label": text("a", "c"), "scores": floats(0.5, 0.5)},
        "label[1] is 'c', not 'b'",
    ),
    "a later row of scores": (
        {"scores": floats(*[0.9, 0.1] * 2).reshape(2, 2)},
        {"scores": floats(0.9, 0.1, 0.1, 0.9).reshape(2, 2)},
        "the best of scores is another",
    ),
    "a whole number": (
        {"n": np.array([[1, 2], [3, 4]])},
        {"n": np.array([[1, 2], [5, 4]])},
        "n[1, 0] is 5, not 3",
    ),
    "infinity": ({"y": floats(math.inf)}, {"y": floats(-math.inf)}, "y differs by inf"),
    "two classes of one label": (
        {**ranking([("crane", 0.9)]), "indices": np.array([[134]])},
        {**ranking([("crane", 0.9)]), "indices": np.array([[517]])},
        "crane (class 517), not crane (class 134)",
    ),
    "the first of a tie": (
        ranking([("a", 0.5), ("b", 0.5)]),
        ranking([("b", 0.5), ("a", 0.5)]),
        "b, not a",
    ),
}
ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a zero of either sign": ({"y": floats(0.0)}, {"y": floats(-0.0)}),
    "NaN in both": ({"y": floats(NAN, 1.0)}, {"y": floats(NAN, 1.0)}),
    "the same infinity": ({"y": floats(math.inf)}, {"y": floats(math.inf)}),
    "bytes and text": ({"y": text("é")}, {"y": text("é".encode())}),
    "halves": ({"y": floats(1.0, of=np.float16)}, {"y": floats(1.001, of=np.float16)}),
    "bfloat16": ({"y": floats(8.0, of=ml_dtypes.bfloat16)}, {"y": floats(8.004)}),
    "other whole numbers": ({"n": np.array([1], np.int32)}, {"n": np.array([1], np.int64)}),
    "no rows": (ranking(), ranking()),
    "nothing in it": ({"y": floats()}, {"y": floats()}),
    "no outputs": ({}, {}),
    "no scores": ({"scores": np.zeros((2, 0))}, {"scores": np.zeros((2, 0))}),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_differs(case: str) -> None:
    served, other, what = DIFFERENT[case]
    found = compare(served, other)
    assert found.what == what
    json.dumps([found.served.score, found.other.score], allow_nan=False)


@pytest.mark.parametrize("case", ALIKE)
def test_what_does_not_differ(case: str) -> None:
    one, other = ALIKE[case]
    assert compare(one, other).what == compare(other, one).what == ""


def test_what_is_told_of_a_long_text_is_short() -> None:
    found = compare({"y": text("a" * 10**6)}, {"y": text(b"\x1b" * 10**6)})
    assert len(found.what) < 2000
    assert found.what.isprintable()
    assert len(found.served.label or "") == 200


def test_what_a_question_keeps_in_memory() -> None:
    batch = np.zeros((64, 1000), np.float32)
    body = bytes(5000)
    of_body = {name: np.frombuffer(body, np.uint8, 10, offset) for offset, name in enumerate("ab")}
    assert Kept("s", {}, {"y": batch[3:4], "z": batch[4:5]}).size == batch.nbytes
    assert Kept("s", {}, {"y": batch[3:4]}).length == 4000
    assert Kept("s", of_body, {}).size == 5000
    assert Kept("s", of_body, {}).length == 20
    assert Kept("s", {"x": text(*[b""] * 1000)}, {}).size > 8000, "each is a pointer at least"
    assert Kept("s", {"x": text(*[b""] * 30_000)}, {}).size == math.inf
    assert Kept("s", {"x": np.array([{}], object)}, {}).length == math.inf
