"""Loads on servers that stall, refuse, hang up or answer strangely: what is counted."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace

import psutil
import pytest

from mlserve.bench.arrivals import Arrivals, PlannedArrivals
from mlserve.bench.connection import GARBAGE, LOST, NOT_CONNECTED
from mlserve.bench.load import ClosedLoop, OpenLoop, Window, run_load, run_loads
from mlserve.bench.measure import measure
from mlserve.bench.processes import LoadProcesses, processes_for, require_files
from mlserve.bench.tally import ANSWERED, EXPIRED, LEFT, Tally
from mlserve.bench.target import Target
from mlserve.client.adapter import Call
from mlserve.client.endpoint import Connection
from mlserve.errors import UsageError
from mlserve.testing.processes import wait_until
from tests.bench.conftest import OK, Answer, ServeHttp
from tests.harness.ports import free_ports

EVEN = Arrivals(0.0)
CHUNKED = b"HTTP/1.1 200 OK\r\nlength: 0\r\nTransfer-Encoding: chunked\r\n\r\n"


def _target(url: str, timeout: float = 5.0) -> Target:
    return Target.of_http("t", url, b"x", timeout=timeout)


def _window(seconds: float = 0.3, timeout: float = 5.0) -> Window:
    return Window(seconds, 0.0, timeout)


def _answers(*said: bytes) -> object:
    async def answer(number: int) -> bytes:
        return said[number % len(said)]

    return answer


def test_a_stall_counts_for_every_request_that_it_delayed(serve_http: ServeHttp) -> None:
    """A server that answers one at a time, and once not for 0.4 s: there is no omission."""
    lock = asyncio.Lock()

    async def answer(number: int) -> bytes:
        async with lock:
            await asyncio.sleep(0.4 if number == 20 else 0)
        return OK

    tally = run_load(_target(serve_http(answer)), OpenLoop(100.0, EVEN), _window(1.0))
    delayed = tally.requests - tally.answers.count_within(0.05)
    assert tally.requests == 99
    assert delayed >= 30  # of the 40 that arrived meanwhile; a closed loop would have seen one
    assert tally.answers.largest >= 0.4


def test_outcomes_are_counted_by_kind(serve_http: ServeHttp) -> None:
    busy, gone, late, bad = (
        b"HTTP/1.1 %d no\r\nContent-Length: 0\r\n\r\n" % status for status in (429, 503, 504, 400)
    )
    tally = run_load(
        _target(serve_http(_answers(OK, busy, gone, late, bad, b"HTTP/1.1 what\r\n\r\n", b""))),
        OpenLoop(70.0, EVEN),
        _window(1.0),
    )
    assert tally.requests == 69
    assert tally.refused == {"overloaded": 10, "unavailable": 10}
    assert tally.count(EXPIRED) == 10
    assert tally.failed["invalid_input"] == 10
    assert tally.failed[GARBAGE] + tally.failed[LOST] == 19
    assert tally.in_time == 10


@pytest.mark.parametrize(
    "said",
    [
        OK,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx: length\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
    ids=["length", "close", "continue", "chunked", "until the end", "HTTP/1.0"],
)
def test_answers_end_in_every_way_of_http(serve_http: ServeHttp, said: bytes) -> None:
    tally = run_load(_target(serve_http(_answers(said))), ClosedLoop(2), _window())
    assert tally.requests == tally.in_time > 0


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (OK, b"ok"),
        (
            CHUNKED + b"2\r\nok\r\n3;x=y\r\n, t\r\n2\r\noo\r\n0\r\n\r\n",
            b"ok, too",
        ),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000, b"x" * 300_000),
        (b"HTTP/1.1 429 no\r\nContent-Length: 2\r\n\r\nno", None),
    ],
    ids=["length", "chunked", "until the end", "long", "refused"],
)
def test_an_answer_is_handed_to_who_takes_it(
    serve_http: ServeHttp, said: bytes, body: bytes | None
) -> None:
    taken: list[tuple[str, bytes]] = []

    def take(headers: Mapping[str, str], content: bytes) -> None:
        taken.append((headers.get("content-length", ""), content))

    target = _target(serve_http(_answers(said)))
    target = replace(target, requests=(replace(target.requests[0], take=take),))
    tally = run_load(target, OpenLoop(10.0, PlannedArrivals(planned=(0.0, 0.1))), _window())
    assert tally.requests == 2
    assert [content for _, content in taken] == [body] * (0 if body is None else 2)
    if b"content-length" in said:
        assert {length for length, _ in taken} == {str(len(body or b""))}


def test_several_loads_run_at_the_same_time(serve_http: ServeHttp) -> None:
    """Each server answers once the other has been asked: one after the other, both were late."""
    asked = threading.Event(), threading.Event()

    def answering(own: threading.Event, other: threading.Event) -> Answer:
        async def answer(number: int) -> bytes:
            own.set()
            await asyncio.to_thread(other.wait, 20)
            return OK

        return answer

    loads = [
        (
            _target(serve_http(answering(*events)), timeout=10.0),
            OpenLoop(10.0, PlannedArrivals(planned=moments)),
            _window(1.0, timeout=10.0),
        )
        for events, moments in ((asked, (0.0, 0.2)), (asked[::-1], (0.1,)))
    ]
    tallies = run_loads(loads)
    assert [tally.in_time for tally in tallies] == [2, 1]


def test_an_answer_in_pieces_is_one_answer(serve_http: ServeHttp) -> None:
    long = b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000
    tally = run_load(_target(serve_http(_answers(long))), ClosedLoop(1), _window())
    assert tally.requests == tally.in_time > 0


def test_no_answer_in_time_is_given_up(serve_http: ServeHttp) -> None:
    async def answer(number: int) -> bytes:
        await asyncio.sleep(30)
        return OK

    url = serve_http(answer)
    tally = run_load(_target(url, 0.1), OpenLoop(50.0, EVEN), _window(timeout=0.1))
    assert tally.count(EXPIRED) == tally.requests == 14
    assert tally.latencies[EXPIRED].quantile(0.5) >= 0.1  # type: ignore[operator]


def test_callers_that_leave_tell_no_deadline_and_hang_up(serve_http: ServeHttp) -> None:
    """Every second one waits long enough for an answer, which takes a second."""

    async def answer(number: int) -> bytes:
        await asyncio.sleep(1)
        return OK

    connection = Connection.to(serve_http(answer), "rest")
    target = Target.of_calls("t", connection, [Call("/", b"x")], 9.0, is_told=False)
    assert b"timeout" not in target.requests[0].head
    leaving = target.left_after((0.1, 8.0))
    assert [request.timeout for request in leaving.requests] == [0.1, 8.0]
    tally = run_load(leaving, OpenLoop(40.0, EVEN), _window(0.5, 8.0))
    assert (tally.requests, tally.in_time, tally.count(LEFT)) == (19, 9, 10)
    assert tally.latencies[LEFT].largest < 1
    assert not tally.failed


def test_each_of_several_requests_is_sent_with_each_wait() -> None:
    calls = [Call("/", body) for body in (b"1", b"2", b"3")]
    connection = Connection.to("127.0.0.1:1", "rest")
    target = Target.of_calls("t", connection, calls, 9.0, is_told=False)
    pairs = [(request.body, request.timeout) for request in target.left_after((1.0, 2.0)).requests]
    assert sorted(pairs) == [(call.body, wait) for call in calls for wait in (1.0, 2.0)]
    assert target.left_after(()) == target


def test_a_client_without_an_answer_asks_again_at_once_and_counts_once(
    serve_http: ServeHttp,
) -> None:
    """Of three calls one is answered at once, one at the second attempt, and one not at all."""
    said = (b"HTTP/1.1 429 no\r\nContent-Length: 0\r\n\r\n",) * 6
    answers = iter((OK, said[0], OK, *said[1:]))

    async def answer(number: int) -> bytes:
        return next(answers)

    load = OpenLoop(10.0, EVEN, retries=2)
    window = Window(0.4, 0.0, 5.0, keeps_ends=True)
    tally = run_load(_target(serve_http(answer)), load, window)
    assert (tally.requests, tally.in_time, tally.retried) == (3, 2, 3)
    assert [(end.kind, round(end.planned, 1)) for end in tally.ends] == [
        (ANSWERED, 0.1),
        (ANSWERED, 0.2),
        ("overloaded", 0.3),
    ]
    assert all(end.ended >= end.planned for end in tally.ends)


def test_a_port_without_a_server_is_told() -> None:
    target = _target(f"http://127.0.0.1:{free_ports(1)[0]}/")
    for load in (ClosedLoop(2), OpenLoop(40.0, EVEN)):
        tally = run_load(target, load, _window())
        assert set(tally.failed) == {NOT_CONNECTED}, load
    assert tally.requests == len(list(EVEN.moments(40.0, 0.3, 0)))  # also those of the last moment


def test_a_request_on_a_connection_that_was_closed_when_idle_is_sent_once_more(
    serve_http: ServeHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server hangs up on each second request, as if the connection had been idle too long."""
    seen: list[int] = []

    async def answer(number: int) -> bytes:
        seen.append(number)
        return b"" if number % 2 else OK

    target = _target(serve_http(answer))
    with monkeypatch.context() as patch:
        patch.setattr("mlserve.bench.load._STALE", 0.1)
        tally = run_load(target, OpenLoop(5.0, EVEN), _window(0.7))
    assert (tally.requests, tally.in_time, tally.resent) == (3, 3, 2)
    assert len(seen) == 5
    busy = run_load(target, OpenLoop(50.0, EVEN), _window(0.4))  # not idle: the server is to blame
    assert busy.resent == 0
    assert busy.failed[LOST] > 5


def test_a_server_that_takes_no_more_connections_does_not_keep_a_load_from_its_end() -> None:
    """Its queue of connections is full, so that the next one hangs for minutes."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as held:
        for _ in range(4):
            stream = held.enter_context(socket.socket())
            stream.setblocking(False)
            stream.connect_ex(full.getsockname())
        target = _target(f"http://127.0.0.1:{full.getsockname()[1]}/", 0.1)
        for load in (ClosedLoop(1), OpenLoop(20.0, EVEN)):
            began = time.monotonic()
            tally = run_load(target, load, _window(timeout=0.1))
            assert tally.count(EXPIRED) == tally.requests > 0
            assert time.monotonic() - began < 20


def test_the_warm_up_is_left_out(serve_http: ServeHttp) -> None:
    seen: list[int] = []

    async def answer(number: int) -> bytes:
        seen.append(number)
        return OK

    target = _target(serve_http(answer))
    tally = run_load(target, OpenLoop(100.0, EVEN), Window(0.3, 0.3, 5.0))
    assert tally.requests == 30
    assert len(seen) == 59


def test_a_load_without_any_request_is_doubtful(serve_http: ServeHttp) -> None:
    load = OpenLoop(0.1, EVEN)
    [measured] = measure([_target(serve_http(_answers(OK)))], [load], _window(0.05))
    assert [text for text in measured.warnings if "no request ended" in text]


@pytest.mark.server
def test_several_processes_share_one_plan(serve_http: ServeHttp) -> None:
    target = _target(serve_http(_answers(OK)))
    with LoadProcesses(2) as processes:
        tally = processes.run(target, OpenLoop(100.0, EVEN), _window(0.5))
        assert (tally.requests, tally.in_time) == (49, 49)
        closed = processes.run(target, ClosedLoop(3), _window(1.0))
    assert closed.in_time > 3


def test_one_process_is_enough_for_a_small_load() -> None:
    assert processes_for(ClosedLoop(1)) == processes_for(OpenLoop(300.0)) == 1


def test_an_interrupt_keeps_what_was_measured(serve_http: ServeHttp) -> None:
    answered = threading.Event()

    async def answer(number: int) -> bytes:
        if number == 20:
            answered.set()
        return OK

    def interrupt() -> None:
        with suppress(ProcessLookupError):
            if answered.wait(30):
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.getsignal(signal.SIGINT)
    thread.start()
    tally: Tally = run_load(_target(serve_http(answer)), OpenLoop(100.0, EVEN), _window(60.0))
    thread.join()
    assert not tally.is_whole
    assert 15 <= tally.requests < 3000
    assert 0 < tally.seconds < 60
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.server
def test_an_interrupt_while_processes_start_ends_the_load(serve_http: ServeHttp) -> None:
    """As from a terminal: the processes get it, too, before they have imported anything."""
    own = psutil.Process()
    before = own.children()

    def interrupt() -> None:
        def started() -> list[psutil.Process]:
            return [each for each in own.children() if each not in before and _is_python(each)]

        wait_until(lambda: len(started()) == 2)
        for process in (*started(), own):
            process.send_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    began = time.monotonic()
    with LoadProcesses(2) as processes:
        thread.start()
        tally = processes.run(_target(serve_http(_answers(OK))), ClosedLoop(2), _window(600.0))
    thread.join()
    assert not tally.is_whole
    assert time.monotonic() - began < 300


def _is_python(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "spawn_main" in " ".join(process.cmdline())
    return False


@pytest.mark.parametrize("path", ["/", "/predict", "/v2/models/m/infer", "/ask?top=5"])
def test_the_path_of_a_url_is_asked_as_it_is(path: str) -> None:
    head = _target(f"http://127.0.0.1:1{path}").requests[0].head
    assert head.startswith(f"POST {path} HTTP/1.1\r\n".encode())


def test_an_hour_of_requests_is_not_planned_at_once(serve_http: ServeHttp) -> None:
    taken = 0

    class Counted(Arrivals):
        def moments(self, rate: float, seconds: float, seed: int) -> Iterator[float]:
            nonlocal taken
            for moment in super().moments(rate, seconds, seed):
                taken += 1
                yield moment

    first: list[int] = []

    async def answer(number: int) -> bytes:
        first.append(taken)
        return OK

    tally = run_load(_target(serve_http(answer)), OpenLoop(500.0, Counted(0.0)), _window(0.4))
    assert first[0] < 100
    assert taken == tally.requests == tally.in_time


def test_more_clients_than_files_are_refused_before_the_load() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    require_files(ClosedLoop(100), 1)
    require_files(OpenLoop(1e6), 1)
    if limits[1] != resource.RLIM_INFINITY:
        with pytest.raises(UsageError, match="open files") as caught:
            require_files(ClosedLoop(limits[1]), 1)
        assert "ulimit -n" in str(caught.value.hint)
        require_files(ClosedLoop(limits[1]), 2)
