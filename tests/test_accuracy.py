"""`mlserve.accuracy`: what is right, what is confused, and what is left out."""

from __future__ import annotations

from mlserve.accuracy import Accuracy, ClassScore


def test_counts_by_class_and_by_mistake() -> None:
    found = Accuracy()
    for expected, answered in [
        ("cat", ["cat", "dog"]),
        ("cat", ["dog", "cat"]),
        ("cat", ["dog", "cow"]),
        ("dog", ["dog", "cat"]),
        ("cow", ["ox", "cat"]),
    ]:
        found.add(expected, answered)

    assert (found.images, found.right, found.share) == (5, 2, 0.4)
    assert (found.best, found.in_best, found.share_in_best) == (2, 3, 0.6)
    assert found.labels() == ["cat", "cow", "dog", "ox"]
    assert found.classes() == [
        ClassScore("cat", 3, 1, 1 / 3, 1.0),
        ClassScore("cow", 1, 0, 0.0, None),
        ClassScore("dog", 1, 1, 1.0, 1 / 3),
    ]
    assert found.mistakes() == [("cat", "dog", 2), ("cow", "ox", 1)]
    assert found.to_json()["confusion"][0] == {"expected": "cat", "answered": "cat", "images": 1}


def test_the_best_are_as_many_for_each_answer() -> None:
    found = Accuracy()
    found.add("cat", ["dog", "ox", "cat"])
    found.add("dog", ["dog", "cat"])
    found.add("ox", ["cat", "ox", "dog"])
    assert (found.best, found.in_best) == (2, 2)  # the third place of a longer list does not count


def test_no_answer_is_no_accuracy() -> None:
    assert (Accuracy().share, Accuracy().share_in_best, Accuracy().best) == (None, None, None)
