"""Conformance tests of a server of any model of tensors: the questions come from its signatures."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mlserve.artifact import Artifact
from mlserve.backend import Runner
from mlserve.client import Client
from mlserve.client.endpoint import Api
from mlserve.errors import (
    InvalidInput,
    NotFound,
    Unavailable,
    UsageError,
)
from mlserve.tensors import DType, Signature, TensorSpec
from mlserve.testing.given import GivenBackend
from mlserve.testing.processes import ServerProcess, launched, wait_until

PROTOCOLS = ("grpc", "rest")
APIS = ("tfs", "oip")
ROWS = 3
_OPEN = 4
"""The size that a question has where the signature leaves one open, but for the first."""

Question = Mapping[str, np.ndarray[Any, Any]]


def question_for(signature: Signature, rows: int = ROWS) -> dict[str, np.ndarray[Any, Any]]:
    """Return inputs that the signature declares: `rows` rows where its first size is open."""
    random = np.random.default_rng(0)
    return {spec.name: _values(spec, rows, random) for spec in signature.required}


def _values(spec: TensorSpec, rows: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    sizes = spec.shape or ()
    shape = [
        (rows if axis == 0 else _OPEN) if size is None else size for axis, size in enumerate(sizes)
    ]
    if spec.dtype is DType.BYTES:
        texts = np.empty(shape, dtype=object)
        texts[...] = b"text"
        return texts
    kind = np.dtype(spec.dtype.label)
    if kind.kind in "fc":
        return random.uniform(0, 1, shape).astype(kind)
    return random.integers(0, 2, shape).astype(kind)


class ConformsAsTensorServer(GivenBackend):
    """Tests of a server of a model of tensors: its start, its answers and its end.

    `questions` is overridden where the model does not take what `question_for` makes.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def questions(cls, runner: Runner) -> Mapping[str, Question]:
        """Return inputs for each signature, of several rows where it has an open first size."""
        return {name: question_for(signature) for name, signature in runner.signatures.items()}

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, backend_name: str, artifact: Artifact) -> Iterator[ServerProcess]:
        """Yield a ready server, shared by the tests of a class."""
        with launched(backend_name, artifact) as server:
            server.wait_ready()
            yield server

    def test_its_signatures_can_be_asked(self, runner: Runner) -> None:
        assert runner.signatures
        for signature in runner.signatures.values():
            assert signature.outputs
            for spec in (*signature.inputs, *signature.outputs):
                assert spec.name

    @pytest.mark.parametrize("api", APIS)
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_it_answers_as_the_runner_does(
        self,
        server: ServerProcess,
        runner: Runner,
        questions: Mapping[str, Question],
        protocol: str,
        api: Api,
    ) -> None:
        with server.client(protocol, api) as client:
            for name, question in questions.items():
                answer = client.infer(question, signature=name, timeout=20)
                same_outputs(answer, runner.run(name, question))

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_its_metadata_are_those_of_the_runner(
        self, server: ServerProcess, protocol: str, runner: Runner
    ) -> None:
        with server.client(protocol) as client:
            served = {s.name: s for s in client.metadata(timeout=10).signatures}
        for name, signature in runner.signatures.items():
            assert set(served[name].inputs) == set(signature.inputs)
            assert set(served[name].outputs) == set(signature.outputs)

    def test_rows_alone_are_answered_as_in_a_batch(
        self, server: ServerProcess, runner: Runner, questions: Mapping[str, Question]
    ) -> None:
        with server.client() as client:
            for name, question in questions.items():
                signature = runner.signatures[name]
                if not _has_rows(signature):
                    continue
                together = client.infer(question, signature=name, timeout=20)
                for row in range(ROWS):
                    one = {key: value[row : row + 1] for key, value in question.items()}
                    alone = client.infer(one, signature=name, timeout=20)
                    same_outputs(alone, {k: v[row : row + 1] for k, v in together.items()})

    @pytest.mark.parametrize("api", APIS)
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_only_the_outputs_that_are_wanted_come(
        self,
        server: ServerProcess,
        runner: Runner,
        questions: Mapping[str, Question],
        protocol: str,
        api: Api,
    ) -> None:
        name, question = next(iter(questions.items()))
        last = runner.signatures[name].outputs[-1].name
        with server.client(protocol, api) as client:
            answer = client.infer(question, signature=name, outputs=[last], timeout=20)
        assert list(answer) == [last]

    @pytest.mark.parametrize("api", APIS)
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_a_wrong_question_is_refused_and_the_next_one_answered(
        self,
        server: ServerProcess,
        runner: Runner,
        questions: Mapping[str, Question],
        protocol: str,
        api: Api,
    ) -> None:
        name, question = next(iter(questions.items()))
        first = next(iter(question))
        with server.client(protocol, api) as client:
            for wrong in (
                {**question, "no_such_input": question[first]},
                {key: value for key, value in question.items() if key != first},
                {**question, first: question[first][..., np.newaxis, np.newaxis]},
            ):
                with pytest.raises((UsageError, InvalidInput)) as refused:
                    client.infer(wrong, signature=name, timeout=20)
                assert refused.value.hint
            same_outputs(
                client.infer(question, signature=name, timeout=20), runner.run(name, question)
            )

    def test_a_wrong_request_is_refused(self, server: ServerProcess) -> None:
        """By the server itself: nothing has checked these before they were sent."""
        bodies: tuple[Any, ...] = ({}, {"inputs": {"no_such_input": [1]}}, {"instances": [{}]}, [])
        for body in bodies:
            answer = _post(server, body)
            assert answer.status_code == 400, body
            assert answer.json()["error"]

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_an_unknown_model_or_version_is_not_found(
        self, server: ServerProcess, protocol: str, questions: Mapping[str, Question]
    ) -> None:
        name, question = next(iter(questions.items()))
        for model, version in (("nope", None), (server.model, 99)):
            with (
                Client(server.endpoint(protocol), model=model, version=version) as client,
                pytest.raises(NotFound),
            ):
                client.infer(question, signature=name, timeout=10)

    def test_an_expired_request_is_not_run(self, server: ServerProcess) -> None:
        answer = _post(server, {"inputs": {}}, {"X-Request-Timeout-Ms": "0"})
        assert answer.status_code == 504
        assert "deadline" in answer.json()["error"]

    def test_it_starts_gets_ready_answers_reloads_and_drains(
        self,
        backend_name: str,
        artifact: Artifact,
        runner: Runner,
        questions: Mapping[str, Question],
        tmp_path: Path,
    ) -> None:
        """One life of a server; only Unavailable is returned before it is ready."""
        name, question = next(iter(questions.items()))
        base_path = tmp_path / artifact.model
        shutil.copytree(artifact.path, base_path / "1")
        served = Artifact.open(base_path, artifact.model, 1)
        with launched(backend_name, served, "--threads", "1") as server:
            answer = wait_until(lambda: _answer(server, name, question))
            same_outputs(answer, runner.run(name, question))
            shutil.copytree(artifact.path, base_path / ".incoming")
            (base_path / ".incoming").rename(base_path / "2")
            wait_until(lambda: _version(server, name, question) == 2)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0, server.log()
            assert "Traceback" not in server.log()
            with server.client() as client, pytest.raises(Unavailable):
                client.infer(question, signature=name, timeout=5)

    def test_nothing_answers_where_nothing_listens(self, questions: Mapping[str, Question]) -> None:
        name, question = next(iter(questions.items()))
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            endpoint = "{}:{}".format(*bound.getsockname())
            with Client(endpoint, model="m") as client, pytest.raises(Unavailable) as refused:
                client.infer(question, signature=name, timeout=5)
        assert endpoint in refused.value.message


def same_outputs(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Assert that two answers are equal, but for the last digits of a float: batches round so."""
    assert set(one) == set(other)
    for name, expected in other.items():
        found = np.asarray(one[name])
        assert found.shape == np.asarray(expected).shape, name
        if found.dtype.kind in "fc":
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(found, expected, err_msg=name)


def _has_rows(signature: Signature) -> bool:
    specs = (*signature.inputs, *signature.outputs)
    return all(spec.shape is not None and spec.shape[:1] == (None,) for spec in specs)


def _answer(server: ServerProcess, name: str, question: Question) -> Mapping[str, Any] | None:
    """Return the answer; None while the server reports that it is not ready."""
    assert server.process.poll() is None, server.log()
    with server.client() as client:
        try:
            return client.infer(question, signature=name, timeout=20)
        except Unavailable:
            return None


def _version(server: ServerProcess, name: str, question: Question) -> int | None:
    with server.client() as client:
        return client.infer(question, signature=name, timeout=20).version


def _post(server: ServerProcess, body: Any, headers: dict[str, str] | None = None) -> Any:
    url = f"http://{server.rest}/v1/models/{server.model}:predict"
    return httpx.post(url, json=body, headers=headers, timeout=20)
