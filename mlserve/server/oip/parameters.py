"""Parameters of the Open Inference Protocol: the ones that mlserve reads; all others are ignored.

- of a request: `signature`, `timeout`, `binary_data_output`
- of an input: `binary_data_size`
- of a requested output: `classification`, `binary_data`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput
from mlserve.wire.proto.inference_pb2 import InferParameter

Parameters = Mapping[str, bool | int | float | str]

_MICROSECONDS = 1_000_000
_SHARED_MEMORY = "shared_memory_region"


def of_json(value: Any, where: str) -> Parameters:
    """The parameters of a JSON request. Raises InvalidInput naming `where` they stand."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"the parameters of {where} must be an object")
    return _checked(value, where)


def of_messages(values: Mapping[str, InferParameter], where: str) -> Parameters:
    """The parameters of a gRPC request; one without a value is left out. Raises InvalidInput."""
    kinds = {name: value.WhichOneof("parameter_choice") for name, value in values.items()}
    given = {name: getattr(values[name], kind) for name, kind in kinds.items() if kind}
    return _checked(given, where)


def text(parameters: Parameters, name: str) -> str:
    """A string parameter; empty when it is not given. Raises InvalidInput."""
    value = parameters.get(name, "")
    if not isinstance(value, str):
        raise _wrong(name, "a string", value)
    return value


def flag(parameters: Parameters, name: str) -> bool | None:
    """A boolean parameter; None when it is not given. Raises InvalidInput."""
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "a boolean", value)
    return value


def count(parameters: Parameters, name: str) -> int | None:
    """A parameter that is an integer of at least 0; None when it is not given."""
    value = parameters.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise _wrong(name, "a whole number of at least 0", value)
    return value


def sooner(deadline: Deadline, parameters: Parameters) -> Deadline:
    """The deadline, or the one of the parameter `timeout` (microseconds) where that is sooner.

    It runs from the request's arrival; 0 is no timeout, as for Triton. Raises InvalidInput.
    """
    microseconds = count(parameters, "timeout")
    if not microseconds or microseconds >= deadline.timeout * _MICROSECONDS:
        return deadline
    timeout = microseconds / _MICROSECONDS
    return Deadline(deadline.expires_at - deadline.timeout + timeout, timeout)


def _checked(parameters: Mapping[str, Any], where: str) -> Parameters:
    if _SHARED_MEMORY in parameters:
        raise InvalidInput(
            f"{where} has the parameter {_SHARED_MEMORY!r}: shared memory is not supported; "
            "send the data in the request"
        )
    return parameters


def _wrong(name: str, expected: str, value: object) -> InvalidInput:
    return InvalidInput(f"the parameter {name!r} must be {expected}, not {value!r}")
