"""Made-up inputs: of the declared types and sizes, and rows that depend on each other are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlserve.errors import InvalidInput
from mlserve.probe import Rows, check_rows, made_up_inputs, tried
from mlserve.sources import How
from mlserve.tensors import DType, Signature, TensorSpec

Function = Callable[[Any], Any]


def signature(inputs: tuple[str, ...], outputs: tuple[str, ...] = ("y:float32[?]",)) -> Signature:
    specs = (tuple(map(TensorSpec.from_text, texts)) for texts in (inputs, outputs))
    return Signature("serving_default", *specs)


def rows_of(function: Function, takes: str = "x:float32[?,2]") -> Rows | None:
    def run(name: str, inputs: Any) -> Any:
        assert name == "serving_default"
        return {"y": function(inputs["x"])}

    return check_rows([signature((takes,))], run)


@pytest.mark.parametrize("dtype", [d for d in DType if not d.label.startswith(("q", "bf"))])
def test_inputs_have_the_declared_type_and_sizes(dtype: DType) -> None:
    spec = f"x:{dtype.label}[?,4,?]"
    (array,) = made_up_inputs(signature((spec,)), rows=2, length=5).values()
    assert array.shape == (2, 4, 5)
    assert array.dtype == (object if dtype is DType.BYTES else np.dtype(dtype.label))
    if dtype is DType.BYTES:
        assert all(isinstance(value, bytes) for value in array.flat)
    elif array.dtype.kind in "iu" and dtype is not DType.UINT8:
        assert set(array.flat) == {0, 1}, "an id that any table has"
    assert len(set(array.flat)) > 1
    (again,) = made_up_inputs(signature((spec,)), rows=2, length=5).values()
    np.testing.assert_array_equal(array, again)


def test_fixed_sizes_scalars_and_unknown_ranks() -> None:
    inputs = made_up_inputs(signature(("a:int32[2,3]", "b:float64[]", "c:bool[...]")), rows=4)
    assert {name: array.shape for name, array in inputs.items()} == {
        "a": (2, 3),
        "b": (),
        "c": (4,),
    }


def test_inputs_that_may_be_left_out_are_left_out() -> None:
    both = signature(("a:int32[?]", "b:int32[?]"))
    optional = Signature("s", both.inputs, both.outputs, frozenset({"b"}))
    assert set(made_up_inputs(optional)) == {"a"}


def test_independent_rows_are_found() -> None:
    rows = rows_of(lambda x: x.sum(axis=1))
    assert rows is not None
    assert (rows.are_dependent, rows.fact.how, rows.fact.warning) == (False, How.FOUND, "")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum(axis=1) - x.mean(),
        lambda x: np.cumsum(x[:, 0]),
        lambda x: np.argsort(x[:, 0]),
        lambda x: x[:1, 0],
    ],
    ids=["mean", "running sum", "rank", "first row only"],
)
def test_rows_that_depend_on_the_others_are_found(function: Function) -> None:
    rows = rows_of(function)
    assert rows is not None
    assert rows.are_dependent
    assert "a row's answer depends on the rows beside it (output y of" in rows.fact.warning


def test_answers_that_change_from_call_to_call_are_found() -> None:
    rng = np.random.default_rng(0)
    rows = rows_of(lambda x: rng.normal(size=len(x)))
    assert rows is not None
    assert rows.are_dependent
    assert "gives two answers to the same input" in rows.fact.warning


def test_what_the_model_refuses_is_said_and_not_held_against_it() -> None:
    def refuse(x: Any) -> Any:
        raise InvalidInput("x must be 7")

    rows = rows_of(refuse)
    assert rows is not None
    assert (rows.are_dependent, rows.fact.how) == (False, How.ASSUMED)
    assert "x must be 7" in rows.fact.why


def test_a_model_that_refuses_a_row_alone_has_dependent_rows() -> None:
    def in_threes(x: Any) -> Any:
        if len(x) % 3:
            raise InvalidInput("the rows come in threes")
        return x

    rows = rows_of(in_threes)
    assert rows is not None
    assert rows.are_dependent
    assert "takes 3 rows, but not one alone (the rows come in threes)" in rows.fact.warning


def test_types_that_cannot_be_made_up_are_said() -> None:
    rows = rows_of(lambda x: x, "x:bfloat16[?,2]")
    assert rows is not None
    assert "numbers of type bfloat16 cannot be made up" in rows.fact.why


@pytest.mark.parametrize("takes", ["x:float32[3,2]", "x:float32[]", "x:float32[...]"])
def test_a_model_without_rows_is_not_asked(takes: str) -> None:
    assert rows_of(lambda x: 1 / 0, takes) is None


def test_an_open_size_is_one_that_the_model_takes() -> None:
    def at_least_fifty(inputs: Any) -> Any:
        if inputs["x"].shape[1] < 50:
            raise InvalidInput("too short")
        return {"y": inputs["x"][:, :50]}

    trial = tried(signature(("x:float32[?,?]",)), at_least_fifty)
    assert not isinstance(trial, str)
    assert trial.inputs["x"].shape == (3, 64)
    assert tried(signature(("x:float32[?,4]",)), at_least_fifty) == "too short"
