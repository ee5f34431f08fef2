"""The rule: which answers are accepted, and which are left to a human."""

from __future__ import annotations

import math

import pytest

from mlserve.errors import Unavailable
from mlserve.gate.policy import (
    Decision,
    NotToBeTrusted,
    Policy,
    Reason,
    as_single,
    require_own_weights,
    score_of,
)
from tests.gate.answers import answer


@pytest.mark.parametrize(
    ("score", "decision"),
    [(0.9, Decision.ACCEPT), (0.8999, Decision.ASK), (1.0, Decision.ACCEPT)],
)
def test_the_least_score_is_enough(score: float, decision: Decision) -> None:
    policy = Policy({"ok"}, min_score=0.9)
    assert policy.judge(answer(("ok", score), ("hole", 0.0))).decision is decision


def test_another_label_with_the_same_score_is_unsure() -> None:
    """As of a quantized model, or one that gives the same for every image."""
    tied = answer(("ok", 0.5), ("hole", 0.5))
    found = Policy({"ok"}).judge(tied)
    assert found[:2] == (Decision.ASK, Reason.UNCERTAIN)
    assert found.text == "ok and hole have the same score, 0.5000"
    assert Policy({"ok"}, on_unsure=Decision.REJECT).judge(tied).decision is Decision.REJECT
    assert Policy({"ok", "hole"}).judge(tied).decision is Decision.ACCEPT


def test_an_uncertain_answer_is_unsure_without_a_score_too() -> None:
    policy = Policy({"ok"})
    assert policy.judge(answer()).decision is Decision.ACCEPT
    assert policy.judge(answer(rungs="int8;uncertain")).reason is Reason.UNCERTAIN


def test_what_means_nothing_is_never_accepted() -> None:
    policy = Policy({"ok"}, on_error=Decision.ACCEPT)
    assert policy.on(Unavailable("no server")).decision is Decision.ACCEPT
    with pytest.raises(NotToBeTrusted) as refused:
        require_own_weights(has_random_weights=True)
    assert policy.on(refused.value).decision is Decision.ASK
    with pytest.raises(NotToBeTrusted, match="without a score"):
        Policy({"ok"}, min_score=0.5).judge(answer())


def test_a_score_is_the_same_over_every_protocol() -> None:
    """REST writes the float32 of a model in fewer digits; at the threshold that would decide."""
    least = Policy({"ok"}, min_score=0.95)
    for told in (0.95, 0.949999988079071):
        assert least.judge(answer(("ok", told))).decision is Decision.ACCEPT
        assert score_of(answer(("ok", told)), {"ok"}) == as_single(0.95)
    assert least.judge(answer(("ok", 0.9499999))).decision is Decision.ASK
    assert score_of(answer(("ok", 1e300)), {"ok"}) == math.inf
