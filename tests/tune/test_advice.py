"""What `up` takes from a tuning: nothing against the user, and never without a word."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from mlserve import paths
from mlserve.backend import Listen
from mlserve.launch.ports import PortRequest
from mlserve.launch.process import created
from mlserve.launch.records import ServerRecord, write_record
from mlserve.launch.up import UpRequest, request_up
from mlserve.load_options import LoadOptions
from mlserve.served_model import ServedModel
from mlserve.serving import Serving
from mlserve.settings import EMBEDDED, NATIVE
from mlserve.tune.advice import advised
from mlserve.tune.machine import Machine
from mlserve.tune.records import Tuning, keep

Tuned = Callable[..., Tuning]


def _request(served: ServedModel, **options: object) -> UpRequest:
    model = replace(served, options=LoadOptions.from_json(options))
    return request_up(Serving((model,)), PortRequest("127.0.0.1", 0, 0))


def _advised(served: ServedModel, *given: str, **options: object) -> tuple[LoadOptions, list[str]]:
    told: list[str] = []
    request = advised(_request(served, **options), given, told.append)
    return request.serving.only.options, told


def test_nothing_is_said_without_a_tuning(served: ServedModel) -> None:
    assert _advised(served) == (LoadOptions(), [])


def test_the_winner_is_used_and_said(served: ServedModel, tuned: Tuned) -> None:
    keep(tuned(threads=2))

    options, told = _advised(served, allow_unsafe_ops=True)

    assert options == LoadOptions(threads=2, allow_unsafe_ops=True)
    assert told == ["tuned on 2026-01-02: --threads=2 (mlserve tune)"]


def test_defaults_that_won_are_left_alone(served: ServedModel, tuned: Tuned) -> None:
    keep(tuned())

    assert _advised(served) == (LoadOptions(), [])


@pytest.mark.parametrize("given", [{"threads": 1}, {"instances": 3}])
def test_an_option_of_the_user_counts(
    given: dict[str, object], served: ServedModel, tuned: Tuned
) -> None:
    keep(tuned(threads=2))
    model = replace(served, options=LoadOptions.from_json(given))
    request = replace(_request(served), serving=Serving((model,)))
    told: list[str] = []

    kept = advised(request, given, told.append)

    assert kept == request
    said = "tuned on 2026-01-02: --threads=2 (mlserve tune); not used, as"
    assert told == [f"{said} --{next(iter(given))} is given"]


def test_an_option_of_the_same_value_is_no_other_choice(served: ServedModel, tuned: Tuned) -> None:
    keep(tuned(threads=2, instances=4))

    options, _ = _advised(served, "threads", threads=2)

    assert options == LoadOptions(threads=2, instances=4)


def test_one_of_another_machine_is_not_used_and_said(served: ServedModel, tuned: Tuned) -> None:
    keep(replace(tuned(threads=2), machine=Machine("Other CPU", 64)))

    options, [told] = _advised(served)

    assert options == LoadOptions()
    assert told == (
        "the tuning of 2026-01-02 is not used: it was made on another machine (Other CPU, 64 "
        "usable CPUs); measure again: mlserve tune"
    )


def test_a_server_that_runs_is_joined_as_it_is(served: ServedModel, tuned: Tuned) -> None:
    keep(tuned(threads=2))
    request = _request(served, threads=3)
    me = os.getpid()
    write_record(
        ServerRecord(
            name="echo-m",
            serving=request.serving,
            launcher=EMBEDDED,
            listen=Listen("127.0.0.1", 8500, 8501),
            pid=me,
            pid_created=created(me),
            log=None,
            started="2026-01-02T03:04:05+00:00",
            is_ready=True,
        )
    )

    options, [told] = _advised(served)

    assert options == LoadOptions(threads=3)
    assert told.endswith("; echo-m runs already: they hold from its next start")


def test_a_file_that_cannot_be_read_keeps_no_model_from_being_served(
    served: ServedModel, tuned: Tuned
) -> None:
    keep(tuned(threads=2))
    (paths.state_dir() / "tuned.json").write_text("{")

    options, [told] = _advised(served)

    assert options == LoadOptions()
    assert told.startswith("warning: ")
    assert told.endswith("; no tuned options are used")


def test_other_launchers_are_not_tuned(served: ServedModel, tuned: Tuned) -> None:
    keep(tuned(threads=2))
    request = replace(_request(served), launcher=NATIVE)

    assert advised(request, (), pytest.fail) is request
