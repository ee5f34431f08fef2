"""Batching, seen from outside: the echo backend's journal has a line for each run of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from mlserve.artifact import Manifest
from mlserve.server.engine.batches import Batches
from mlserve.settings import ServerSettings
from mlserve.tensors import DType, Signature, TensorSpec
from mlserve.testing.processes import wait_until
from tests.harness.echo import tensors_manifest


@pytest.fixture
def batching(model: Any, start: Any) -> Any:
    """Starts a server with one worker that batches: `batching(delay, size=...)`."""

    def serve(delay: float = 0.0, size: int = 8, manifest: Manifest | None = None) -> Any:
        model.put(1, manifest=manifest)
        flags = ("--max-batch-size", str(size), "--max-batch-delay", str(delay))
        server = start("--threads", "1", *flags)
        model.journal.write_text("")
        return server

    return serve


@pytest.fixture
def occupy(model: Any, predict_on: Any, request_of: Any) -> Any:
    """Keeps the one worker of a server busy, so that what comes then is queued.

    What it returns lets the worker go once that many calls have come, and waits for its answer.
    """

    def occupy(server: Any) -> Callable[[int], None]:
        request = request_of("slow", seconds=(np.array([60.0], np.float32), DType.FLOAT32))
        call = predict_on(server, request, timeout=60)
        wait_until(lambda: model.runs() == ["slow"])

        def release(queued: int) -> None:
            wait_until(lambda: server.in_flight() == 1 + queued)
            model.release()
            assert call.result()

        return release

    return occupy


def images(*contents: bytes) -> tuple[Any, DType]:
    return np.array(contents, object), DType.BYTES


def numbers(*values: float) -> tuple[Any, DType]:
    return np.array(values, np.float32), DType.FLOAT32


@pytest.mark.server
def test_requests_that_wait_run_as_one_and_each_gets_its_own_answer(
    batching: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    server = batching()
    release = occupy(server)
    sent = [(1.0,), (2.0, 3.0), (4.0, 5.0, 6.0)]
    calls = [
        predict_on(server, request_of("two", a=numbers(*a), b=numbers(*[10.0] * len(a))))
        for a in sent
    ]
    release(3)
    for a, call in zip(sent, calls, strict=True):
        outputs = call.result().outputs
        assert list(outputs["sum"].float_val) == [value + 10 for value in a]
        assert list(outputs["product"].float_val) == [value * 10 for value in a]
        assert [dim.size for dim in outputs["sum"].tensor_shape.dim] == [len(a)]
    assert model.runs() == ["slow", "two"]


@pytest.mark.server
@pytest.mark.parametrize("are_dependent", [False, True])
def test_rows_that_depend_on_each_other_are_never_run_together(
    batching: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any, *, are_dependent: bool
) -> None:
    server = batching(manifest=tensors_manifest(has_dependent_rows=are_dependent))
    release = occupy(server)
    calls = [
        predict_on(server, request_of("two", a=numbers(a), b=numbers(10.0))) for a in (1.0, 2.0)
    ]
    release(2)
    assert [list(call.result().outputs["sum"].float_val) for call in calls] == [[11.0], [12.0]]
    assert model.runs() == ["slow", "two", *(["two"] if are_dependent else [])]


@pytest.mark.server
def test_a_bad_image_fails_alone_with_its_own_index(
    batching: Any, occupy: Any, predict_on: Any, request_of: Any
) -> None:
    server = batching()
    release = occupy(server)
    good = [predict_on(server, request_of(image=images(b"x"))) for _ in range(2)]
    bad = predict_on(server, request_of(image=images(b"x", b"bad")))
    after = predict_on(server, request_of(image=images(b"x", b"x", b"x")))
    release(4)
    assert bad.exception().code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bad.exception().details() == "image 1 of 2 is not a JPEG or PNG file"
    for call, rows in [(good[0], 1), (good[1], 1), (after, 3)]:
        assert list(call.result().outputs["output_0"].string_val) == [b"sorrel"] * rows


@pytest.mark.server
def test_only_requests_of_one_signature_run_together(
    batching: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    server = batching()
    release = occupy(server)
    calls = [
        predict_on(server, request_of(name, image=images(b"x")))
        for name in ("top_k", "serving_default", "top_k", "serving_default")
    ]
    same = [
        predict_on(server, request_of("identity_float32", x=numbers(float(number))))
        for number in range(2)
    ]
    release(6)
    for call in (*calls, *same):
        assert call.result()
    first, *runs = model.runs()
    assert first == "slow"
    assert sorted(runs) == ["identity_float32"] * 2 + ["serving_default", "top_k"]


@pytest.mark.server
def test_a_client_that_has_left_is_not_part_of_the_batch(
    batching: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    server = batching()
    release = occupy(server)
    gone = predict_on(server, request_of(image=images(b"bad")))
    stays = predict_on(server, request_of(image=images(b"x")))
    wait_until(lambda: server.in_flight() == 3)
    gone.cancel()
    release(1)
    assert stays.result().outputs["output_0"].string_val == [b"sorrel"]
    assert model.runs() == ["slow", "serving_default"]


@pytest.mark.server
def test_rest_requests_whose_signature_is_told_by_the_body_are_batched(
    batching: Any, occupy: Any, model: Any
) -> None:
    server = batching()
    release = occupy(server)
    with ThreadPoolExecutor(3) as clients:
        bodies = [{"instances": ["x"]}, {"instances": ["y", "z"]}, {"inputs": ["x"]}]
        asked = [clients.submit(server.post, body) for body in bodies]
        release(3)
        answers = [future.result().json() for future in asked]
    assert answers == [
        {"predictions": ["sorrel"]},
        {"predictions": ["sorrel", "sorrel"]},
        {"outputs": ["sorrel"]},
    ]
    assert model.runs() == ["slow", "serving_default"]


@pytest.mark.server
def test_a_batch_waits_for_more_until_it_is_full(
    batching: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    server = batching(delay=15.0, size=2)
    known(server, predict_on, request_of)
    calls = [predict_on(server, request_of(image=images(b"x")), timeout=50) for _ in range(2)]
    for call in calls:
        assert call.result()
    assert model.runs() == ["serving_default"] * 2, "the first to be measured, then the two as one"


@pytest.mark.server
def test_a_batch_never_waits_past_the_earliest_deadline(
    batching: Any, predict_on: Any, request_of: Any
) -> None:
    server = batching(delay=60.0, size=8)
    known(server, predict_on, request_of)
    patient = predict_on(server, request_of(image=images(b"x")), timeout=50)
    hasty = predict_on(server, request_of(image=images(b"x")), timeout=3)
    assert hasty.result()
    assert patient.result()


@pytest.fixture
def likes_batches(model: Any, start: Any) -> Any:
    """Starts a server with four workers, of a runtime that likes up to eight requests together."""

    def serve(*flags: str) -> Any:
        model.put(1, together=8)
        server = start("--threads", "4", *flags)
        model.journal.write_text("")
        return server

    return serve


@pytest.mark.server
def test_a_runtime_that_likes_batches_gets_what_has_come_while_it_was_busy(
    likes_batches: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    """Three workers are free, but the runtime is not; the first request waits for no other."""
    server = likes_batches()
    release = occupy(server)
    calls = [
        predict_on(server, request_of("two", a=numbers(a), b=numbers(1.0))) for a in (1.0, 2.0, 3.0)
    ]
    release(3)
    sums = [list(call.result().outputs["sum"].float_val) for call in calls]
    assert sums == [[2.0], [3.0], [4.0]]
    assert model.runs() == ["slow", "two"]


@pytest.mark.server
def test_more_than_one_batch_may_wait_beside_free_workers(
    likes_batches: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    """The server reads and answers meanwhile; it once looked for the first of the second batch
    until half of that call's time was over."""
    server = likes_batches()
    release = occupy(server)
    sent = [float(number) for number in range(20)]
    calls = [
        predict_on(server, request_of("two", a=numbers(a), b=numbers(1.0)), timeout=200)
        for a in sent
    ]
    release(20)
    assert [call.result(timeout=50).outputs["sum"].float_val[0] for call in calls] == [
        value + 1 for value in sent
    ]
    assert model.runs() == ["slow"] + ["two"] * 3, "eight, eight and four"


@pytest.mark.server
def test_more_than_one_batch_may_wait_with_the_user_s_batch_size(
    likes_batches: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    server = likes_batches("--max-batch-size", "6", "--max-batch-delay", "100")
    known(server, predict_on, request_of)
    calls = [predict_on(server, request_of(image=images(b"x")), timeout=300) for _ in range(20)]
    wait_until(lambda: sum(call.done() for call in calls) == 18)
    assert model.runs() == ["serving_default"] * 4, "the first to be measured, then three of six"
    for call in calls:
        call.cancel()


@pytest.mark.server
def test_the_user_s_batch_size_comes_before_the_runtime_s(
    likes_batches: Any, occupy: Any, predict_on: Any, request_of: Any, model: Any
) -> None:
    server = likes_batches("--max-batch-size", "1")
    release = occupy(server)
    calls = [predict_on(server, request_of(image=images(b"x"))) for _ in range(2)]
    assert [call.result() for call in calls], "beside the one that is still held"
    assert model.runs() == ["slow"] + ["serving_default"] * 2
    release(0)


def known(server: Any, predict_on: Any, request_of: Any) -> None:
    """Has an image request measured: what nothing is known of does not wait."""
    assert predict_on(server, request_of(image=images(b"x"))).result()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((None,), True), ((None, 3), True), ((), False), (None, False), ((1,), False)],
)
def test_what_has_rows_can_be_stacked(shape: tuple[int | None, ...] | None, expected: bool) -> None:
    free = TensorSpec("x", DType.FLOAT32, (None,))
    other = TensorSpec("y", DType.FLOAT32, shape)
    assert Signature("s", (free,), (other,)).has_rows is expected
    assert Signature("s", (other,), (free,)).has_rows is expected


def test_a_long_queue_is_walked_no_farther_than_a_batch_needs() -> None:
    """With 10,000 waiting, each start of a batch looked at all of them."""
    seen: list[int] = []
    loaded = SimpleNamespace(runner=SimpleNamespace())
    jobs: list[Any] = [
        SimpleNamespace(loaded=loaded, signature_asked="s", can_join=lambda _: True, number=number)
        for number in range(10_000)
    ]

    def walked() -> Iterator[Any]:
        for job in jobs:
            seen.append(job.number)
            yield job

    admission: Any = SimpleNamespace(waiting=walked())
    batches = Batches(admission, ServerSettings(max_batch_size=16))
    found = list(islice(batches.joining(jobs[3]), 15))
    assert [job.number for job in found] == [0, 1, 2, *range(4, 16)]
    assert len(seen) == 16
