"""What a load asks: encoded once by the client's adapters, after the server has answered it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

from mlserve.bench.server_process import listeners
from mlserve.bench.target import Target
from mlserve.client.adapter import Call, SentRequest
from mlserve.client.async_client import AsyncClient
from mlserve.client.call import read_image
from mlserve.client.endpoint import Connection
from mlserve.client.tensor import Tensor
from mlserve.deadline import Deadline
from mlserve.errors import UsageError
from mlserve.rows.asking import ReadyRow, inputs_of
from mlserve.rows.columns import named_columns, signature_of
from mlserve.rows.files import Source
from mlserve.rows.reading import RowReader
from mlserve.rows.table import BadRow
from mlserve.tensors import DType, Signature

MOST_REQUESTS = 256
"""Different requests that a load sends in turn; more files or rows than that are left out."""


class LoadQuestion(Protocol):
    """What is asked of every target, in a form that does not depend on the server."""

    async def encoded(self, client: AsyncClient, deadline: Deadline) -> list[SentRequest]:
        """Ask the server, and return the requests as they were sent.

        Raises the errors of `mlserve predict`, so that no load is sent that cannot be answered.
        """


@dataclass(frozen=True, slots=True)
class ImageQuestion:
    """Images, by file name or as bytes, each a request; the server is asked about the first."""

    files: Sequence[str | bytes]

    async def encoded(self, client: AsyncClient, deadline: Deadline) -> list[SentRequest]:
        images = [await read_image(name) for name in self.files[:MOST_REQUESTS]]
        await client.predict(images[0], timeout=deadline)
        sent = _sent(client)
        return [_about(image, sent) for image in images]


@dataclass(frozen=True, slots=True)
class InputsQuestion:
    """One request with any inputs, which are found once the signature is known."""

    inputs: Callable[[Signature], Mapping[str, Any]]
    signature: str | None = None
    outputs: Sequence[str] | None = None

    async def encoded(self, client: AsyncClient, deadline: Deadline) -> list[SentRequest]:
        metadata = await client.metadata(signature=self.signature, timeout=deadline)
        inputs = self.inputs(signature_of(metadata, self.signature))
        await client.infer(inputs, signature=self.signature, outputs=self.outputs, timeout=deadline)
        return [_sent(client)]


@dataclass(frozen=True, slots=True)
class RowsQuestion:
    """The rows of tables, `batch` of them a request; the server is asked about the first.

    `tell` receives notes about the files.
    """

    sources: Sequence[Source]
    batch: int
    tell: Callable[[str], None]
    signature: str | None = None
    outputs: Sequence[str] | None = None

    async def encoded(self, client: AsyncClient, deadline: Deadline) -> list[SentRequest]:
        metadata = await client.metadata(signature=self.signature, timeout=deadline)
        signature = signature_of(metadata, self.signature)
        reader = RowReader(self.sources, signature, named_columns(metadata, signature), self.tell)
        asked: Any = {"signature": self.signature, "outputs": self.outputs, "timeout": deadline}
        requests: list[SentRequest] = []
        with closing(reader.rows()) as rows:
            while len(requests) < MOST_REQUESTS:
                batch = [_good(row) for row in islice(rows, self.batch)]
                if not batch or (requests and len(batch) < self.batch):
                    break
                inputs = inputs_of(batch)
                if not requests:
                    await client.infer(inputs, **asked)
                    _sent(client)  # raises for an API that a load cannot speak
                requests.append(await client.prepare(inputs, **asked))
        if not requests:
            raise UsageError(
                f"{self.sources[0].name} has no rows", hint="give a table with at least one row"
            )
        return requests


async def target_for(
    name: str,
    connection: Connection,
    question: LoadQuestion,
    timeout: float,  # noqa: ASYNC109  it is sent with each request
    deadline: Deadline,
    *,
    is_told: bool = True,
) -> Target:
    """Return the target, once the server has answered the question.

    Each request of the load has `timeout` seconds, which the server `is_told` or not; `deadline` is
    that of the first answers. Raises the errors of `mlserve predict`, and UsageError for a server
    of TorchServe's own API.
    """
    async with _client(connection) as client:
        sent = await question.encoded(client, deadline)
        calls: list[Call] = [each.call(timeout if is_told else math.inf) for each in sent]
        target = Target.of_calls(name, connection, calls, timeout, is_told=is_told)
        pids = listeners(connection.endpoint)
        return replace(target, pids=pids, model=client.model, api=client.api)


async def encoded_for(
    connection: Connection, question: LoadQuestion, deadline: Deadline
) -> list[SentRequest]:
    """Return the requests of the question, once the server has answered it. Raises as above."""
    async with _client(connection) as client:
        return await question.encoded(client, deadline)


def _client(connection: Connection) -> AsyncClient:
    options = {name: getattr(connection, name) for name in _OPTIONS}
    return AsyncClient(_address(connection), **options)


_OPTIONS = ("model", "version", "api", "token", "tls", "retries", "max_answer_bytes")


def _address(connection: Connection) -> str:
    endpoint = connection.endpoint
    if endpoint.socket:
        return str(endpoint)
    return f"{endpoint.scheme}://{endpoint.address}{endpoint.path}"


def _sent(client: AsyncClient) -> SentRequest:
    if client.sent is None or client.api == "torchserve":
        raise UsageError(
            f"{client.endpoint} speaks TorchServe's own API, which a load cannot ask",
            hint="measure a server of TensorFlow Serving's API or of the Open Inference Protocol",
        )
    return client.sent


def _about(image: bytes, sent: SentRequest) -> SentRequest:
    """Return the same request about another image."""
    inputs = {
        name: Tensor(tensor.shape, [image], DType.BYTES)
        for name, tensor in sent.request.inputs.items()
    }
    return replace(sent, request=replace(sent.request, inputs=inputs))


def _good(row: ReadyRow | BadRow) -> ReadyRow:
    if isinstance(row, BadRow):
        error = row.error
        error.message = f"{row.place}: {error.message}"
        raise error
    return row
