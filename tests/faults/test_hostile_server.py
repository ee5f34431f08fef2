"""A server that means harm: its answers cost the client bounded memory, and never its deadline."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from mlserve.client import Client
from mlserve.errors import InferenceFailed
from tests.faults.hostile_peers import FLOODS, GRPC, REST, SHAPED, grpc_server

pytestmark = [pytest.mark.server, pytest.mark.alone]

TIMEOUT = 1.5
LATENESS = 0.25
TRIES = 4
"""How often a question is asked until it ends in time: this machine may be busy with something
else, and what is late by itself is late each time."""
MOST_MIB = 450
"""What a call may take on top of the process: 64 MiB of an answer, a few times over."""
MOST_LOG = 10_000
"""Bytes that may be on the stderr of a process after all the questions of this file."""
PATIENCE = 30.0
"""Seconds after which a call that has no end is given up."""

_ASKING = """
import json, sys, time
from pathlib import Path
from mlserve.client import Client, connections
from mlserve.errors import MlserveError

def mib(of):
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if of in line]
    return int(line.split()[1]) / 1024

for line in sys.stdin:
    endpoint, api, question, is_forked, timeout = json.loads(line)
    connections.has_inherited_grpc = lambda: is_forked
    with Client(endpoint, model="m", api=api) as client:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before, began = mib("VmRSS"), time.monotonic()
        try:
            if question == "predict":
                client.predict(b"an image", timeout=timeout)
            else:
                getattr(client, question)(timeout=timeout)
            said = "an answer"
        except MlserveError as error:
            said = f"{type(error).__name__}: {error.message}"
        print(json.dumps([said, time.monotonic() - began, mib("VmHWM") - before]), flush=True)
"""


@dataclass(frozen=True)
class Asked:
    """What came of a question: an error, seconds, and what the process grew by in MiB."""

    said: str
    seconds: float
    mib: float


Ask = Callable[..., Asked]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """`ask(endpoint, api, question)` is what comes of a question in another process."""
    argv = [sys.executable, "-c", _ASKING]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(argv, stdin=-1, stdout=-1, stderr=log, text=True) as process,
    ):
        assert process.stdin
        assert process.stdout

        def ask(
            endpoint: str, api: str, question: str = "predict", *, is_forked: bool = False
        ) -> Asked:
            line = json.dumps([endpoint, api, question, is_forked, TIMEOUT]) + "\n"
            for _ in range(TRIES):
                process.stdin.write(line)
                process.stdin.flush()
                assert select.select([process.stdout], [], [], PATIENCE)[0], "there is no end"
                asked = Asked(*json.loads(process.stdout.readline()))
                if asked.seconds < TIMEOUT + LATENESS:
                    break
            return asked

        yield ask
        process.kill()
        assert log.tell() < MOST_LOG, "a server can fill the log of its client"


_KINDS = ("InferenceFailed", "InvalidInput", "DeadlineExceeded", "ConnectionLost", "Unavailable")


def is_bounded(asked: Asked) -> None:
    assert asked.mib < MOST_MIB, asked
    assert asked.seconds < TIMEOUT + LATENESS, asked
    assert len(asked.said) < 5000, len(asked.said)
    assert asked.said.partition(":")[0] in _KINDS, asked


@pytest.mark.parametrize("api", ["tfs", "oip"])
@pytest.mark.parametrize("what", SHAPED)
def test_wide_and_deep_answers_over_rest(faulty: Any, ask: Ask, what: str, api: str) -> None:
    is_bounded(ask(f"http://{faulty(SHAPED[what]())}", api))


@pytest.mark.parametrize("what", REST)
def test_answers_without_end_over_rest(faulty: Any, ask: Ask, what: str) -> None:
    is_bounded(ask(f"http://{faulty(REST[what]())}", "tfs"))


@pytest.mark.parametrize("question", ["metadata", "status", "load"])
@pytest.mark.parametrize("what", ["millions of empty objects", "millions of levels"])
def test_other_questions_over_rest(faulty: Any, ask: Ask, what: str, question: str) -> None:
    asked = ask(f"http://{faulty(SHAPED[what]())}", "tfs", question)
    if question == "load":  # it is told as unknown
        assert (asked.said, asked.mib < MOST_MIB) == ("an answer", True)
    else:
        is_bounded(asked)


@pytest.mark.parametrize("is_forked", [False, True], ids=["grpcio", "h2"])
@pytest.mark.parametrize("api", ["tfs", "oip"])
@pytest.mark.parametrize("what", GRPC)
def test_over_grpc(ask: Ask, what: str, api: str, is_forked: bool) -> None:
    with grpc_server(lambda _, context: GRPC[what](api, context)) as endpoint:
        is_bounded(ask(endpoint, api, is_forked=is_forked))


@pytest.mark.parametrize("is_forked", [False, True], ids=["grpcio", "h2"])
@pytest.mark.parametrize("what", FLOODS)
def test_frames_without_end_over_grpc(faulty: Any, ask: Ask, what: str, is_forked: bool) -> None:
    is_bounded(ask(faulty(FLOODS[what]), "tfs", is_forked=is_forked))


@pytest.mark.parametrize("compression", list(grpc.Compression))
def test_a_packed_answer_above_the_limit_is_told_as_such_and_asked_for_once(
    compression: grpc.Compression,
) -> None:
    asked: list[bytes] = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        asked.append(request)
        context.set_compression(compression)
        return bytes(100_000)

    with (
        grpc_server(answer) as endpoint,
        Client(endpoint, model="m", api="tfs", max_answer_bytes=1000) as client,
        pytest.raises(InferenceFailed, match="has more than the 1000 bytes that this client reads"),
    ):
        client.predict(b"x", timeout=20)
    assert len(asked) == 1
