"""Ask a version beside the queue: arrays in, arrays out, on one CPU thread.

It takes no slot and no place in the queue, so the caller sees to it that there is room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlserve.admission.estimates import CostKey
from mlserve.background import run_on_daemon_thread
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, InvalidInput, MlserveError, reason_of
from mlserve.server.engine.work import Codec, Work, run_works
from mlserve.server.errors import without_frames
from mlserve.server.models.loading import LoadedVersion, Served
from mlserve.server.request import StageTimes
from mlserve.server.tensors import NUMPY, Array, check_names, find_signature
from mlserve.settings import ServerSettings
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors


class Nobody:
    """The caller of a question that no client asks: it never leaves."""

    def has_left(self) -> bool:
        return False

    def enter(self, stage: int) -> None:
        """Do nothing: nobody asks."""

    def find_fault(self, kind: CostKey, deadline: Deadline) -> MlserveError | None:
        return None

    def bring_forward(self, work: Work[Any]) -> None:
        """Do nothing: such a question brings no deadline."""


class ArraysCodec(Codec[dict[str, Array]]):
    """A question that was decoded already, perhaps for another version."""

    def __init__(self, signature: str, inputs: Mapping[str, Array]) -> None:
        self._signature = signature
        self._inputs = dict(inputs)

    def decode(
        self, signatures: Mapping[str, Signature], settings: ServerSettings
    ) -> tuple[Signature, Tensors]:
        """Return the inputs if this version takes such. Raises NotFound, InvalidInput."""
        signature = find_signature(signatures, self._signature)
        check_names(signature, self._inputs)
        for spec in signature.inputs_in(self._inputs):
            found = self._inputs[spec.name].dtype
            if found != NUMPY[spec.dtype]:
                raise InvalidInput(f"input '{spec.name}' is {found}, not {spec.dtype.label}")
        return signature, self._inputs

    def encode(self, served: Served, signature: Signature, outputs: Tensors) -> dict[str, Array]:
        return dict(outputs)


async def ask_beside(
    loaded: LoadedVersion,
    signature: str,
    inputs: Mapping[str, Array],
    deadline: Deadline,
    settings: ServerSettings,
) -> dict[str, Array]:
    """Return that version's outputs for the inputs. Raises MlserveError.

    It may return long after the deadline, as a runtime cannot be interrupted; the caller holds a
    lease of the version until then.
    """
    rows = max((array.shape[0] for array in inputs.values() if array.ndim), default=1)
    work = Work(
        ArraysCodec(signature, inputs),
        loaded.served,
        loaded.runner,
        settings,
        CostKey.from_rows(loaded.model, loaded.version, signature, rows),
        deadline,
        StageTimes(),
        Nobody(),
    )
    work.threads = 1
    if loaded.processes is None:
        await run_on_daemon_thread(run_works, [work])
    else:
        await _done_elsewhere(loaded, work)
    if isinstance(work.error, MlserveError):
        raise without_frames(work.error)
    if work.error is not None:  # not logged: it may be the same with every question
        raise InferenceFailed(reason_of(work.error))
    assert work.result is not None
    return work.result


async def _done_elsewhere(loaded: LoadedVersion, work: Work[Any]) -> None:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(_: Sequence[int] | BaseException) -> None:
        if not ended.done():
            ended.set_result(None)

    assert loaded.processes is not None
    loaded.processes.submit([work], done)
    await ended
