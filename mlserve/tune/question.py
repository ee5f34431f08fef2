"""What every server of a tuning is asked: given files or inputs, or an example."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlserve.bench.questions import ImageQuestion, InputsQuestion, LoadQuestion, target_for
from mlserve.bench.target import Target
from mlserve.client.adapter import SentRequest
from mlserve.client.async_client import AsyncClient
from mlserve.client.endpoint import Connection
from mlserve.client.retries import ONCE
from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, UsageError
from mlserve.images import plain_png
from mlserve.input_example import example_inputs
from mlserve.launch.records import ServerRecord
from mlserve.rows.given import GivenInput, values_of
from mlserve.served_model import ServedModel


def question_about(
    model: ServedModel,
    files: Sequence[str],
    inputs: Sequence[GivenInput],
    read: Callable[[str], bytes],
    signature: str | None = None,
) -> LoadQuestion:
    """Return what is asked: image files, or else inputs, or else an example.

    `read` returns the content of a file that an input names. Raises UsageError for files that go
    to a model of tensors, and for files beside inputs.
    """
    if files and (inputs or signature):
        raise UsageError(
            "images are given beside --input or --signature",
            hint="give the images alone, or one of them as an input: --input NAME=@FILE",
        )
    if inputs:
        return InputsQuestion(lambda found: values_of(inputs, found, read), signature)
    if signature is None and model.takes_images:
        return ImageQuestion(files) if files else _Example(ImageQuestion([plain_png()]))
    if files:
        raise UsageError(
            f"{model.model} is a model of tensors, and {files[0]} is taken for an image",
            hint="give its inputs: --input NAME=VALUE, or --input NAME=@FILE",
        )
    return _Example(InputsQuestion(example_inputs, signature))


def asking(
    model: ServedModel, question: LoadQuestion, timeout: float
) -> Callable[[ServerRecord], Target]:
    """Return what turns a running server of the model into a target of load.

    That raises the errors of `mlserve predict` if the server does not answer the question.
    """

    def target_of(record: ServerRecord) -> Target:
        connection = Connection.to(
            record.grpc_endpoint,
            model=model.model,
            version=model.expected[0],
            retries=ONCE,
            throttle=False,
        )
        due = Deadline.after(timeout)
        return asyncio.run(target_for(record.name, connection, question, timeout, due))

    return target_of


@dataclass(frozen=True, slots=True)
class _Example:
    """A made-up question; a model that refuses it needs a real one."""

    question: LoadQuestion

    async def encoded(self, client: AsyncClient, deadline: Deadline) -> list[SentRequest]:
        try:
            return await self.question.encoded(client, deadline)
        except InvalidInput as error:
            raise type(error)(
                f"the model refuses the example that was made up for it: {error.message}",
                hint="give what it takes: FILE... for images, or --input NAME=VALUE",
            ) from error
