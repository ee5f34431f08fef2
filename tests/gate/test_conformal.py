"""The thresholds keep their risk: on resplits of real data, and beside two libraries."""

from __future__ import annotations

from math import comb, inf
from typing import Any, NamedTuple

import numpy as np
import pytest

from mlserve.gate import conformal
from mlserve.gate.guarantee import Among, Scored, Wanted, calibrated
from mlserve.gate.identity import Identity

pytestmark = pytest.mark.framework

RESPLITS = 1000
RISK, DELTA = 0.05, 0.1
MODEL = Identity("m", 1, "sha256:ab", None)


class Scores(NamedTuple):
    """Scores of the accepted label; -inf where the classifier says another one."""

    bad: Any
    good: Any


@pytest.fixture(scope="module", params=["digits", "breast_cancer"])
def scores(request: pytest.FixtureRequest) -> Scores:
    """What a weak classifier says of images that it has not seen."""
    from sklearn import datasets
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    data = getattr(datasets, f"load_{request.param}")()
    # Even digits are good parts, and benign tumours; few columns make it hard to tell.
    is_good = data.target % 2 == 0 if request.param == "digits" else data.target == 1
    columns = np.arange(18, 46, 3) if request.param == "digits" else np.array([1, 4, 8])
    values = data.data[:, columns] / np.maximum(data.data[:, columns].max(axis=0), 1)
    seen, new, its, good = train_test_split(values, is_good, test_size=0.8, random_state=1)
    found = LogisticRegression().fit(seen, its).predict_proba(new)[:, 1]
    scored = np.where(found >= 0.5, found, -inf)
    return Scores(scored[~good], scored[good])


def test_the_risk_is_kept_on_resplits(scores: Scores) -> None:
    chance = np.random.default_rng(0)
    half = len(scores.bad) // 2
    rates = np.empty(RESPLITS)
    for number in range(RESPLITS):
        mixed = chance.permutation(scores.bad)
        least = conformal.threshold(mixed[:half], conformal.allowed(half, RISK))
        rates[number] = np.mean(mixed[half:] > least)
    error = 3 * rates.std() / np.sqrt(RESPLITS)
    assert rates.mean() <= RISK + error
    # It is the least such threshold: a lower one would not keep it by more than one image.
    assert rates.mean() >= RISK - 1 / (half + 1) - error


def test_the_risk_among_all_is_kept_on_resplits(scores: Scores) -> None:
    chance = np.random.default_rng(1)
    losses = np.concatenate([scores.bad, np.full(len(scores.good), -inf)])
    half = len(losses) // 2
    rates = np.empty(RESPLITS)
    for number in range(RESPLITS):
        mixed = chance.permutation(losses)
        least = conformal.threshold(mixed[:half], conformal.allowed(half, RISK))
        rates[number] = np.mean(mixed[half:] > least)
    assert rates.mean() <= RISK + 3 * rates.std() / np.sqrt(RESPLITS)


def test_the_confidence_is_kept_on_draws(scores: Scores) -> None:
    """A draw with replacement has independent images, whose true risk is known."""
    chance = np.random.default_rng(2)
    images = 200
    most = conformal.allowed(images, RISK, DELTA)
    drawn = chance.choice(scores.bad, (RESPLITS, images))
    least = np.array([conformal.threshold(draw, most) for draw in drawn])
    risks = (scores.bad[None, :] > least[:, None]).mean(axis=1)
    broken = np.mean(risks > RISK)
    assert broken <= DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / RESPLITS)


def test_the_decisions_are_those_of_crepes(scores: Scores) -> None:
    """To accept above the threshold is to reject `the part is bad` at the level of the risk."""
    from crepes import ConformalClassifier

    held, new = np.round(scores.bad[::2], 3), np.round(np.concatenate(scores), 3)  # with ties
    held, new = np.maximum(held, -1.0), np.maximum(new, -1.0)
    classifier = ConformalClassifier()
    classifier.fit(held)
    found = classifier.predict_p(new, smoothing=False).ravel()
    for risk in (0.01, 0.05, 0.1, 0.3):
        most = conformal.allowed(len(held), risk)
        assert (most < 0) == (len(held) < conformal.needed(risk))
        if most >= 0:
            least = conformal.threshold(held, most)
            assert ((new > least) == (found <= risk)).all()


def test_the_threshold_is_not_above_that_of_mapie(scores: Scores) -> None:
    """MAPIE bounds the risk by Hoeffding and Bentkus, we by the exact binomial distribution."""
    from mapie.risk_control import BinaryClassificationController

    held = np.concatenate([scores.bad, scores.good])
    held = np.where(held == -inf, 0.0, held)
    is_good = np.repeat([0, 1], [len(scores.bad), len(scores.good)])
    risk = 0.1
    theirs = BinaryClassificationController(
        lambda column: np.hstack([1 - column, column]),
        "fpr",
        target_level=risk,
        confidence_level=1 - DELTA,
        best_predict_param_choice="recall",
        list_predict_params=np.linspace(0.5, 0.995, 100),
        fwer_method="fixed_sequence",
    )
    theirs.calibrate(held[:, None], is_good)
    most = conformal.allowed(len(scores.bad), risk, DELTA)
    ours = conformal.threshold(scores.bad, most)
    assert ours <= theirs.best_predict_param <= ours + 0.1


def test_how_many_images_a_risk_needs() -> None:
    assert conformal.needed(0.01) == 99  # (0 + 1) / (99 + 1) is 0.01
    assert conformal.needed(0.1) == 9
    assert conformal.needed(0.3) == 3
    assert conformal.needed(0.01, 0.05) == 299  # 0.99 ** 299 is below 0.05
    for risk in (0.001, 0.01, 0.07, 0.5):
        for delta in (None, 0.05, 0.5):
            least = conformal.needed(risk, delta)
            assert conformal.allowed(least, risk, delta) >= 0
            assert least == 1 or conformal.allowed(least - 1, risk, delta) < 0


@pytest.mark.parametrize("images", [10, 60, 300])
def test_the_binomial_bound_is_exact(images: int) -> None:
    for most in range(min(images, 20)):
        below = sum(comb(images, k) * 0.1**k * 0.9 ** (images - k) for k in range(most + 1))
        assert (conformal.allowed(images, 0.1, 0.05) >= most) == (below <= 0.05)


def test_a_calibration_says_what_it_found() -> None:
    bad = [Scored(is_good=False, score=number / 100) for number in range(97)]
    bad += [Scored(is_good=False, score=None)] * 2
    good = [Scored(is_good=True, score=number / 100) for number in (50, 96, 97, 98)]
    wanted = Wanted(("ok",), 0.02)
    found = calibrated(wanted, bad + good, MODEL, holdout="", made="")
    assert (found.threshold, found.false_accepts, found.counted) == (0.95, 1, 99)
    assert found.good_accepted == 0.75
    assert not found.lets_in(0.95)
    assert found.lets_in(0.951)
    assert not found.bins
    of_all = Wanted(("ok",), 0.02, among=Among.ALL)
    assert calibrated(of_all, bad + good, MODEL, holdout="", made="").counted == 103
    # Too few of them ever get the label: then the label is enough.
    few = [Scored(is_good=False, score=None)] * 99 + [Scored(is_good=False, score=0.9)]
    assert calibrated(wanted, few, MODEL, holdout="", made="").threshold is None
