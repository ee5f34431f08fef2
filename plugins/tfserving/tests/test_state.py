"""SavedModels that write to variables of their own: no caller gets a part of another's answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlserve_tfserving.backend import TFServingBackend
from mlserve_tfserving.loading import read_meta_graph
from mlserve_tfserving.writes import keeps_state

from mlserve import backend
from mlserve.artifact import Artifact
from mlserve.backend import Runner
from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded
from mlserve.load_options import LoadOptions
from mlserve.server.models.loading import warm_up

pytestmark = pytest.mark.tensorflow

CALLERS, CALLS = 4, 25
LONG = 2000
"""Rounds of a loop that takes long enough for other calls to begin."""


def load(base_path: Path) -> Runner:
    return TFServingBackend().load(Artifact.open(base_path, "m", 1), LoadOptions())


def save(base_path: Path, module: Any) -> Path:
    """Save a module whose `__call__` takes `x`, a float32 vector."""
    import tensorflow as tf

    folder = base_path / "1"
    x = tf.TensorSpec([None], tf.float32, name="x")
    called = tf.function(module.__call__).get_concrete_function(x)
    tf.saved_model.save(module, str(folder), signatures=called)
    return folder


def scratch() -> Any:
    """A module that puts its input aside, works for a while, and answers what it had put aside."""
    import tensorflow as tf

    class Scratch(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.aside = tf.Variable([0.0], shape=[None])

        def __call__(self, x: Any) -> Any:
            aside = self.aside.assign(x)
            start = tf.cast(0 * aside[0], tf.int32)
            rounds = tf.while_loop(lambda i: i < LONG, lambda i: [i + 1], [start])[0]
            with tf.control_dependencies([rounds]):
                return {"y": self.aside.read_value() * 2}

    return Scratch()


def weights() -> Any:
    """A module that only reads its variable."""
    import tensorflow as tf

    class Weights(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = tf.Variable(3.0)

        def __call__(self, x: Any) -> Any:
            return {"y": x * self.weight}

    return Weights()


def table() -> Any:
    """A module that writes to a table."""
    import tensorflow as tf

    class Table(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)

        def __call__(self, x: Any) -> Any:
            keys = tf.cast(x, tf.int64)
            self.table.insert(keys, x)
            return {"y": self.table.lookup(keys)}

    return Table()


def test_callers_of_a_model_with_a_scratch_variable_get_their_own_answers(tmp_path: Path) -> None:
    save(tmp_path, scratch())
    runner = load(tmp_path)

    def wrong(caller: int) -> list[float]:
        mine = np.full(3, caller, np.float32)
        answers = [runner.run("serving_default", {"x": mine})["y"] for _ in range(CALLS)]
        return [float(y[0]) for y in answers if y.tolist() != [2.0 * caller] * 3]

    with ThreadPoolExecutor(CALLERS) as callers:
        assert list(callers.map(wrong, range(1, CALLERS + 1))) == [[]] * CALLERS


def test_a_call_that_waits_for_its_turn_ends_at_its_deadline(tmp_path: Path) -> None:
    save(tmp_path, scratch())
    runner: Any = load(tmp_path)
    x = {"x": np.zeros(1, np.float32)}
    with runner._turn(None), pytest.raises(DeadlineExceeded, match="one call at a time"):
        runner.run("serving_default", x, Deadline.after(0.01))
    assert runner.run("serving_default", x, Deadline.after(60))["y"].tolist() == [0.0]


@pytest.mark.parametrize(("make", "expected"), [(weights, False), (scratch, True), (table, True)])
def test_only_what_a_call_writes_to_is_state(
    tmp_path: Path, make: Callable[[], Any], expected: bool
) -> None:
    assert keeps_state(read_meta_graph(save(tmp_path, make()))) is expected
    assert backend.keeps_state(load(tmp_path)) is expected


def counter_of_tensorflow_1(base_path: Path) -> None:
    """Save a graph that adds its input to a variable by reference, and answers the variable."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [2], "x")
        total = v1.get_variable("total", initializer=[0.0, 0.0], use_resource=False)
        y = v1.assign_add(total, x)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(base_path / "1"))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()


def test_an_answer_is_the_variable_as_it_was_then(tmp_path: Path) -> None:
    counter_of_tensorflow_1(tmp_path)
    runner = load(tmp_path)
    warm_up(Artifact.open(tmp_path, "m", 1), runner)  # which is not counted
    one = {"x": np.ones(2, np.float32)}
    first = runner.run("serving_default", one)["y"]
    assert first.tolist() == [1.0, 1.0]
    runner.run("serving_default", one)
    assert first.tolist() == [1.0, 1.0]
    assert keeps_state(read_meta_graph(tmp_path / "1"))
