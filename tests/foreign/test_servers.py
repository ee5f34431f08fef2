"""The client against real servers of the Open Inference Protocol, over gRPC and REST."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mlserve.client import Client, Retries
from mlserve.errors import (
    DeadlineExceeded,
    InferenceFailed,
    MlserveError,
    NotFound,
    Overloaded,
    Unavailable,
    UsageError,
)
from mlserve.tensors import DType
from mlserve.testing.processes import wait_until

pytestmark = [pytest.mark.server, pytest.mark.foreign]

ALL = ["triton", "mlserver", "kserve"]
SERVERS = pytest.mark.parametrize("server", ALL, indirect=True)
WITHOUT_QUEUE = pytest.mark.parametrize("server", ["mlserver", "kserve"], indirect=True)
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
ONCE = Retries(max_attempts=1)
PATIENT = Retries(max_attempts=10_000, cap=0.1)


@SERVERS
@PROTOCOLS
def test_the_label_of_an_image(cli: Any, server: Any, protocol: str, photo: Any) -> None:
    """The command, as a user types it: no --api, no --protocol."""
    endpoint = server.endpoint(protocol)
    outcome = cli("predict", photo, "--endpoint", endpoint, "--model", "label", "--timeout", 20)

    assert (outcome.stdout, outcome.returncode) == ("red\n", 0), outcome.stderr


@SERVERS
@PROTOCOLS
def test_the_model_runs_once_for_each_question(server: Any, protocol: str, green: bytes) -> None:
    """Finding out what the server speaks runs nothing, neither does finding the form of images."""
    with server.client(protocol, "label") as client:
        before = server.entered("label")
        first, second = client.predict(green, timeout=20), client.predict(green, timeout=20)

    assert (first.label, second.label) == ("green", "green")
    assert first.api == client.api == "oip"
    assert server.entered("label") - before == 2


@PROTOCOLS
def test_scores_of_triton_are_asked_for_as_classes(
    triton: Any, protocol: str, green: bytes
) -> None:
    with triton.client(protocol, "scores") as client:
        found = client.predict(green, timeout=20, top_k=2)

    assert len(found.scores) == 2
    best = found.scores[0]
    assert (best.label, best.score, best.index) == ("green", 1.0, 1)


@WITHOUT_QUEUE
@PROTOCOLS
def test_scores_without_labels_are_named(server: Any, protocol: str, green: bytes) -> None:
    """These servers know no classes: what came is said, and nothing is guessed."""
    with (
        server.client(protocol, "scores") as client,
        pytest.raises(InferenceFailed, match=r"not labels.*\(outputs: scores\[1, 3\]\)"),
    ):
        client.predict(green, timeout=20)


@SERVERS
@PROTOCOLS
def test_metadata_and_status(server: Any, protocol: str) -> None:
    with server.client(protocol, "scores") as client:
        described, (row,) = client.metadata(timeout=20), client.status(timeout=20)

    (signature,) = described.signatures
    assert [(spec.name, spec.dtype) for spec in signature.inputs] == [("image", DType.BYTES)]
    assert [str(spec) for spec in signature.outputs] == ["scores: float32[?,3]"]
    assert row.is_available
    assert row.version == (1 if server.name == "triton" else None)


@SERVERS
@PROTOCOLS
def test_the_models_are_named_where_none_is_chosen(
    server: Any, protocol: str, green: bytes
) -> None:
    """Triton and MLServer have an index of models, KServe lists them over REST."""
    with Client(server.endpoint(protocol)) as client, pytest.raises(UsageError) as caught:
        client.predict(green, timeout=20)

    if (server.name, protocol) == ("kserve", "grpc"):
        assert "does not list the models it serves" in caught.value.message
    else:
        assert re.search("serves [4-6] models: broken, label, ", caught.value.message)


@SERVERS
@PROTOCOLS
def test_a_model_that_is_not_there(server: Any, protocol: str, green: bytes) -> None:
    with server.client(protocol, "nobody") as client, pytest.raises(NotFound) as caught:
        client.predict(green, timeout=20)

    assert "nobody" in caught.value.message


@SERVERS
@PROTOCOLS
def test_a_model_that_fails_is_asked_once(server: Any, protocol: str, green: bytes) -> None:
    before = server.entered("broken")
    with (
        server.client(protocol, "broken") as client,
        pytest.raises(InferenceFailed) as caught,
    ):
        client.predict(green, timeout=20)

    assert server.entered("broken") - before == 1
    if (server.name, protocol) != ("kserve", "grpc"):  # whose whole text is Internal server error
        assert "this model knows no colour" in caught.value.message
    if server.name == "triton" or protocol == "rest":
        assert "LookupError" in caught.value.message
    assert "Traceback" not in caught.value.message


@pytest.mark.alone
@SERVERS
@PROTOCOLS
def test_the_deadline_holds(cli: Any, server: Any, protocol: str, photo: Any) -> None:
    server.close_gate("slow")
    options = ["--endpoint", server.endpoint(protocol), "--model", "slow", "--timeout", 1]
    outcome = cli.timed("predict", photo, *options)

    assert outcome.returncode == 124, outcome.stderr
    assert outcome.seconds < 2
    assert "no answer within 1 s" in outcome.stderr


@pytest.mark.parametrize("fresh", ALL, indirect=True)
@PROTOCOLS
def test_killed_in_mid_request_and_started_again(fresh: Any, protocol: str, green: bytes) -> None:
    """Asked once: unavailable, whatever was refused before. Asked again: the next process answers.

    The first question of a client meets refusals on its way, as another API is tried first; what is
    lost then is a connection all the same.
    """
    before = fresh.entered("slow"), fresh.entered("label")
    fresh.close_gate("slow")
    fresh.close_gate("label")
    with (
        fresh.client(protocol, "slow", retries=ONCE) as once,
        fresh.client(protocol, "label", retries=PATIENT) as patient,
        ThreadPoolExecutor(2) as pool,
    ):
        lost = pool.submit(once.predict, green, timeout=45)
        found = pool.submit(patient.predict, green, timeout=45)
        wait_until(lambda: fresh.entered("slow") > before[0] and fresh.entered("label") > before[1])
        fresh.kill()
        fresh.open_gates()
        with pytest.raises(Unavailable, match="went away during the request") as caught:
            lost.result(20)
        fresh.start()
        answer = found.result(45)

    assert caught.value.exit_code == 5
    assert answer.label == "green"
    assert answer.retries[0].kind == "unavailable"


@PROTOCOLS
def test_a_full_queue_of_triton_is_an_overload(triton: Any, protocol: str, green: bytes) -> None:
    """One runs, one waits, and the queue of the model holds no more."""
    triton.close_gate("slow")
    with ThreadPoolExecutor(6) as pool, triton.client(protocol, "slow", retries=ONCE) as client:
        asked = [pool.submit(client.predict, green, timeout=40) for _ in range(6)]
        wait_until(lambda: sum(one.done() for one in asked) >= 3)
        triton.open_gates()
        errors = [one.exception(40) for one in asked]

    refused = [error for error in errors if error is not None]
    assert {type(error) for error in refused} == {Overloaded}
    assert all("Exceeds maximum queue size" in error.message for error in refused)
    assert errors.count(None) >= 1
    assert {one.result().label for one in asked if not one.exception()} == {"green"}


@pytest.mark.alone
@WITHOUT_QUEUE
@PROTOCOLS
def test_an_overload_of_servers_without_a_queue_limit_ends_at_the_deadline(
    server: Any, protocol: str, green: bytes
) -> None:
    """They take whatever comes: each of many calls ends with its own deadline."""
    server.close_gate("slow")
    with ThreadPoolExecutor(40) as pool, server.client(protocol, "slow") as client:
        asked = [pool.submit(client.predict, green, timeout=1) for _ in range(40)]
        errors = [one.exception(30) for one in asked]

    assert {type(error) for error in errors} == {DeadlineExceeded}


@PROTOCOLS
def test_a_model_of_triton_that_loads_is_not_ready(
    triton: Any, protocol: str, green: bytes
) -> None:
    """`has no available versions`, which is NOT_FOUND there: it is asked again until it answers."""
    triton.close_gate("loading")
    before = triton.entered("loading")
    load = threading.Thread(target=_repository, args=(triton, "load"))
    load.start()
    wait_until(lambda: triton.entered("loading") > before)
    try:
        with triton.client(protocol, "loading", retries=ONCE) as client:
            with pytest.raises(Unavailable, match=r"is not ready: .*no available versions"):
                client.predict(green, timeout=20)
            assert not any(row.is_available for row in client.status(timeout=20))
        with (
            ThreadPoolExecutor(1) as pool,
            triton.client(protocol, "loading", retries=PATIENT) as client,
        ):
            asked = pool.submit(client.predict, green, timeout=40)
            triton.open_gates()
            assert asked.result(40).label == "green"
    finally:
        triton.open_gates()
        load.join()
        _repository(triton, "unload")


@pytest.mark.parametrize("server", ["kserve"], indirect=True)
@PROTOCOLS
def test_a_model_of_kserve_that_has_not_been_loaded_is_not_ready(
    server: Any, protocol: str, green: bytes
) -> None:
    with server.client(protocol, "loading", retries=ONCE) as client:
        if protocol == "grpc":  # where it does not look before it runs a model
            assert not any(row.is_available for row in client.status(timeout=20))
            return
        with pytest.raises(Unavailable, match="is not ready"):
            client.status(timeout=20)
        with pytest.raises(Unavailable, match="is not ready"):
            client.predict(green, timeout=20)


@pytest.mark.parametrize("fresh", ["mlserver"], indirect=True)
@PROTOCOLS
def test_a_model_of_mlserver_that_loads_is_not_ready(
    fresh: Any, protocol: str, green: bytes
) -> None:
    """Over gRPC that is INVALID_ARGUMENT: it is asked again until it answers."""
    fresh.kill()
    fresh.close_gate("loading")
    before = fresh.entered("loading")
    fresh.begin()
    wait_until(lambda: fresh.entered("loading") > before)
    with fresh.client(protocol, "loading", api="oip", retries=ONCE) as client:
        wait_until(lambda: _answers(client))
        with pytest.raises(Unavailable, match="is not ready"):
            client.predict(green, timeout=20)
        assert not any(row.is_available for row in client.status(timeout=20))
    with (
        ThreadPoolExecutor(1) as pool,
        fresh.client(protocol, "loading", retries=PATIENT) as client,
    ):
        asked = pool.submit(client.predict, green, timeout=40)
        fresh.open_gates()
        assert asked.result(40).label == "green"


def _answers(client: Client) -> bool:
    """Whether the server has opened its port."""
    try:
        client.metadata(timeout=5)
    except MlserveError as error:
        return "no server answers" not in error.message
    return True


def _repository(triton: Any, verb: str) -> None:
    import httpx

    url = f"{triton.endpoint('rest')}/v2/repository/models/loading/{verb}"
    httpx.post(url, json={}, timeout=60).raise_for_status()
    if verb == "unload":
        ready = f"{triton.endpoint('rest')}/v2/models/loading/ready"
        wait_until(lambda: httpx.get(ready).status_code != 200)
