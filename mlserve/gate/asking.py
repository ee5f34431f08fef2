"""Asks the server about a part: the answer, and which model gave it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from mlserve.errors import DeadlineExceeded, InferenceFailed, Transient, Unavailable
from mlserve.gate.identity import Identity
from mlserve.gate.policy import NotToBeTrusted

if TYPE_CHECKING:
    from mlserve.client import Client, Prediction
    from mlserve.deadline import Deadline
    from mlserve.gate.guarantee import Guarantee

Connect = Callable[["Deadline"], "Client"]
"""Finds the server, and returns a client of it."""
_TRIES = 3
"""How often the answer and the identity may come from two versions before that is an error."""


class Answered(NamedTuple):
    """An answer, and the model that gave it."""

    prediction: Prediction
    identity: Identity


class Asker:
    """Asks one server, which is looked for again once it is gone.

    A server may change its version between two parts, so its identity is asked for with each part,
    within the same deadline: that is one short call.
    """

    def __init__(self, connect: Connect, guarantee: Guarantee | None = None) -> None:
        self._connect = connect
        self._guarantee = guarantee
        self._client: Client | None = None

    def ask(self, image: bytes, deadline: Deadline) -> Answered:
        """Return the answer. Raises the errors of a call, and InvalidInput for another model."""
        try:
            return self._asked(self._found(deadline), image, deadline)
        except Unavailable:
            self.close()  # it may come back at another address
            raise

    def prepare(self, deadline: Deadline) -> None:
        """Find the server, and see that it has the model of the guarantee.

        Raises UsageError for a wrong call, and OtherModel. What may pass by itself, and a model
        whose answers mean nothing, do not matter yet: they decide on the part.
        """
        try:
            client = self._found(deadline)
            if self._guarantee is not None:
                self._guarantee.require(Identity.of(client.metadata(timeout=deadline)))
        except (Transient, DeadlineExceeded, InferenceFailed, NotToBeTrusted):
            self.close()

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _found(self, deadline: Deadline) -> Client:
        if self._client is None:
            self._client = self._connect(deadline)
        return self._client

    def _asked(self, client: Client, image: bytes, deadline: Deadline) -> Answered:
        for _ in range(_TRIES):
            answer = client.predict(image, timeout=deadline)
            identity = _identity(client, answer, deadline)
            if answer.version is None or answer.version == identity.version:
                if self._guarantee is not None:
                    self._guarantee.require(identity)
                return Answered(answer, identity)
        raise NotToBeTrusted(
            f"version {answer.version} answered, and the server describes version "
            f"{identity.version}",
            hint="name the version with --version",
        )


def _identity(client: Client, answer: Prediction, deadline: Deadline) -> Identity:
    """Return which model answered. Only mlserve's servers tell, and say what runs the model."""
    if answer.served_by is None:
        return Identity(answer.model, answer.version, None, None)
    return Identity.of(client.metadata(timeout=deadline))
