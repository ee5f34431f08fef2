"""The parameters of the Open Inference Protocol: what a message says beside its tensors.

- of a request: `signature`, `timeout`, `binary_data_output`
- of an input: `binary_data_size`
- of a requested output: `classification`, `binary_data`

All others are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlserve.errors import InvalidInput
from mlserve.wire.proto.inference_pb2 import InferParameter

_SHARED_MEMORY = "shared_memory_region"


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a request, an input or an output, by name."""

    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Any, where: str) -> Parameters:
        """Read the parameters of a JSON request. Raises InvalidInput that says `where`."""
        if value is None:
            return cls()
        if not isinstance(value, dict):
            raise InvalidInput(f"the parameters of {where} must be an object")
        return cls(_without_shared_memory(value, where))

    @classmethod
    def from_messages(cls, messages: Mapping[str, InferParameter], where: str) -> Parameters:
        """Read the parameters of a gRPC request, except unset ones. Raises InvalidInput."""
        kinds = {name: item.WhichOneof("parameter_choice") for name, item in messages.items()}
        values = {name: getattr(messages[name], kind) for name, kind in kinds.items() if kind}
        return cls(_without_shared_memory(values, where))

    def text(self, name: str) -> str:
        """Return a string parameter; empty if it is not given. Raises InvalidInput."""
        value = self.values.get(name, "")
        if not isinstance(value, str):
            raise _wrong(name, "a string", value)
        return value

    def flag(self, name: str) -> bool | None:
        """Return a boolean parameter; None if it is not given. Raises InvalidInput."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise _wrong(name, "a boolean", value)
        return value

    def count(self, name: str) -> int | None:
        """Return an integer parameter of at least 0; None if it is not given.

        Raises InvalidInput.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise _wrong(name, "a whole number of at least 0", value)
        return value


def _without_shared_memory(values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    if _SHARED_MEMORY in values:
        raise InvalidInput(
            f"{where} has the parameter {_SHARED_MEMORY!r}: shared memory is not supported; "
            "send the data in the request"
        )
    return values


def _wrong(name: str, expected: str, value: object) -> InvalidInput:
    return InvalidInput(f"the parameter {name!r} must be {expected}, not {value!r}")
