"""Answers are written in pieces: the text is that of `json.dumps` of the whole."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlserve.server.codec import json_writer
from mlserve.server.tfs import json_tensors
from mlserve.tensors import DType, Signature, TensorSpec

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
ARRAYS = st.one_of(
    hnp.arrays(np.float32, SHAPES),
    hnp.arrays(np.int64, SHAPES),
    hnp.arrays(np.bool_, SHAPES),
    hnp.arrays(object, SHAPES, elements=st.binary(max_size=4) | st.just(b"a long text\n" * 3)),
)


@pytest.fixture(autouse=True, scope="module", params=[1, 3, 7, 4096])
def pieces(request: pytest.FixtureRequest) -> Any:
    """Written so many values at once, and texts so many characters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_writer, "_VALUES", request.param)
        patch.setattr(json_writer, "PIECE", request.param)
        yield


def spec_of(name: str, array: Any) -> TensorSpec:
    kinds = {"f": DType.FLOAT32, "i": DType.INT64, "b": DType.BOOL, "O": DType.BYTES}
    return TensorSpec(name, kinds[array.dtype.kind], None)


@given(ARRAYS)
def test_one_output(array: Any) -> None:
    spec = spec_of("y", array)
    text = json_tensors.write_outputs(Signature("s", (), (spec,)), {"y": array}, as_rows=False)
    whole = json.dumps({"outputs": json_tensors.from_array(spec, array)}, ensure_ascii=False)
    assert text.decode() == whole


@pytest.mark.slow
@given(st.integers(1, 20), st.data())
def test_several_outputs_in_rows(rows: int, data: Any) -> None:
    arrays = {
        name: data.draw(hnp.arrays(dtype, (rows, *data.draw(SHAPES)), elements=elements))
        for name, dtype, elements in (
            ("a", np.float32, st.floats(width=32)),
            ("b_bytes", object, st.binary(max_size=9)),
            ("c", np.int64, st.integers(-9, 9)),
        )
    }
    specs = tuple(spec_of(name, array) for name, array in arrays.items())
    text = json_tensors.write_outputs(Signature("s", (), specs), arrays, as_rows=True)
    columns = [json_tensors.from_array(spec, arrays[spec.name]) for spec in specs]
    whole = [dict(zip(arrays, row, strict=True)) for row in zip(*columns, strict=True)]
    assert text.decode() == json.dumps({"predictions": whole}, ensure_ascii=False)
