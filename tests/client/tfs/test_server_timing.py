"""Where the time went: the server's word when it gives one, and nothing made up when not."""

from __future__ import annotations

from typing import Any

import pytest

from mlserve.client import Client, Timings
from mlserve.tensors import DType, Signature, TensorSpec
from tests.harness.foreign_tfs import TfsModel

pytestmark = pytest.mark.server

TEXT_IN = Signature(
    "top_k",
    (TensorSpec("image", DType.BYTES, (None,)),),
    (TensorSpec("out", DType.BYTES, (None,)),),
)
ANSWERS = {"top_k": {"out": ["ox"]}}


def _timings(serve: Any, **headers: str) -> Timings:
    model = TfsModel((TEXT_IN,), ANSWERS, headers=headers)
    with Client(serve(model), model="stranger") as client:
        return client.predict(b"1", timeout=20).timings


def test_the_parts_of_the_server_add_up_with_the_rest(serve: Any) -> None:
    said = "queue;dur=0.001, decode;dur=0.002, cache;desc=x, run;dur=0.004, encode;dur=0.008"
    timings = _timings(serve, **{"server-timing": said})

    assert (timings.queue, timings.decode, timings.run, timings.encode) == (
        *(0.001, 0.002, 0.004, 0.008),
    )
    parts = timings.to_json()
    total = parts.pop("total")
    assert timings.receive > 0
    assert sum(part or 0 for part in parts.values()) == pytest.approx(total, abs=0.01)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "queue;dur=1",
        "run;dur=60000, queue;dur=0, decode;dur=0, encode;dur=0",
        "run;dur=nan, queue;dur=0, decode;dur=0, encode;dur=0",
        "run;dur=-1, queue;dur=0, decode;dur=0, encode;dur=0",
    ],
)
def test_what_cannot_be_true_is_not_told(serve: Any, said: str) -> None:
    timings = _timings(serve, **({"server-timing": said} if said else {}))

    assert (timings.queue, timings.decode, timings.run, timings.encode) == (None,) * 4
    assert timings.receive > 0
