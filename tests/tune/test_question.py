"""What is asked of every server: what is given, or an example that the signature makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from mlserve.errors import InvalidInput, UsageError
from mlserve.launch.records import ServerRecord
from mlserve.rows.given import parse_inputs
from mlserve.served_model import ServedModel
from mlserve.tune.question import asking, question_about

Requests = Callable[..., list[bytes]]


def _none(_name: str) -> bytes:
    raise AssertionError("there is no file to read")


@pytest.fixture
def requests(echo: Any, served: ServedModel) -> Requests:
    """`requests(files, inputs, signature)` are the bodies for a server of the echo backend."""

    class Record:
        name = "echo"
        grpc_endpoint = echo.endpoint("grpc")

    def ask(
        files: list[str] | None = None, inputs: list[str] | None = None, name: str | None = None
    ) -> list[bytes]:
        model = replace(served, model=echo.model)
        question = question_about(model, files or [], parse_inputs(inputs or []), _none, name)
        target = asking(model, question, 20)(cast(ServerRecord, Record()))
        return [request.body for request in target.requests]

    return ask


@pytest.mark.server
def test_an_image_is_made_up(requests: Requests) -> None:
    [body] = requests()

    assert b"\x89PNG" in body


@pytest.mark.server
def test_the_files_that_are_given_are_asked_in_turn(requests: Requests, photo: Any) -> None:
    other = photo.with_name("b.jpg")
    other.write_bytes(photo.read_bytes() + b" and another")

    bodies = requests([str(photo), str(other)])

    assert [b"and another" in body for body in bodies] == [False, True]


@pytest.mark.server
def test_tensors_are_made_up_or_given(requests: Requests) -> None:
    half, three = b"\x00\x00\x00?", b"\x00\x00@@"

    [made_up] = requests(name="two")
    [given] = requests(inputs=["a=3", "b=3"], name="two")

    assert made_up.count(half) == 2
    assert given.count(three) == 2


@pytest.mark.server
def test_an_example_that_the_model_refuses_says_so(requests: Requests, photo: Any) -> None:
    photo.write_bytes(b"bad image")
    with pytest.raises(InvalidInput, match="image 0 of 1 is not"):
        requests([str(photo)])


@contextmanager
def _refused(said: str) -> Iterator[None]:
    with pytest.raises(UsageError, match=said):
        yield


def test_what_does_not_go_together_is_refused(served: ServedModel) -> None:
    with _refused("images are given beside --input or --signature"):
        question_about(served, ["a.jpg"], parse_inputs(["a=1"]), _none)
    with _refused("m is a model of tensors, and a.jpg is taken for an image"):
        question_about(replace(served, takes_images=False), ["a.jpg"], (), _none)
