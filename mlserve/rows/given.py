"""The inputs of one request as the command line gives them: NAME=VALUE, NAME=@FILE, @FILE.npz."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlserve.errors import InvalidInput, UsageError, shortened
from mlserve.rows.asking import rank_of
from mlserve.rows.cells import input_value, parsed_json
from mlserve.rows.kinds import STDIN, FileKind, kind_by_content, kind_by_name
from mlserve.rows.objects import parse_json
from mlserve.tensors import DType, Signature, TensorSpec

AT = "@"
_FORM = "give NAME=VALUE, NAME=@FILE or @FILE.npz, for example 'x=[[1, 2, 3]]' or x=@rows.npy"
Read = Callable[[str], bytes]
"""Returns the content of a file; `-` is standard input. Raises UsageError."""


@dataclass(frozen=True, slots=True)
class GivenInput:
    """One `--input`: the name, None for a file with all its arrays, and the text of its value."""

    name: str | None
    text: str

    @property
    def file(self) -> str | None:
        """Return the file that the value is in, if it is in one."""
        return self.text.removeprefix(AT) if self.text.startswith(AT) else None


def parse_inputs(texts: Sequence[str]) -> tuple[GivenInput, ...]:
    """Return the inputs of `--input`. Raises UsageError if one has no name or comes twice."""
    given = tuple(map(_parse, texts))
    names = [item.name for item in given]
    for name in names:
        if names.count(name) > 1 and name is not None:
            raise UsageError(
                f"the input '{shortened(name)}' is given twice", hint="give each input once"
            )
    if [item.file for item in given].count(STDIN) > 1:
        raise UsageError("standard input (-) can be read only once", hint="give @- once")
    return given


def values_of(given: Sequence[GivenInput], signature: Signature, read: Read) -> dict[str, Any]:
    """Return what to send, by name; names that the model lacks are left to the client to refuse.

    Raises UsageError for a file that cannot be read, InvalidInput for a value that does not fit.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    values: dict[str, Any] = {}
    for item in given:
        if item.name is None:
            values |= _arrays(item.text.removeprefix(AT), read)
            continue
        spec = specs.get(item.name)
        value = _value(item, spec, read)
        values[item.name] = value if spec is None else as_batch(value, spec)
    return values


def as_batch(value: Any, spec: TensorSpec) -> Any:
    """Return a value with the dimensions in front that it lacks, if each may be 1.

    A single string or number for an input of shape [N], a row for one of [N, n].
    """
    shape = (None,) if spec.shape is None else spec.shape
    lacking = len(shape) - rank_of(value)
    if spec.shape is None and lacking < 1:
        return value
    for size in reversed(shape[: max(0, lacking)]):
        if size not in (None, 1):
            return value
        value = value[None] if hasattr(value, "ndim") else [value]
    return value


def _parse(text: str) -> GivenInput:
    if text.startswith(AT):
        name = text.removeprefix(AT)
        if kind_by_name(name) is not FileKind.NPZ:
            raise UsageError(f"--input {shortened(text)} has no name", hint=_FORM)
        return GivenInput(None, text)
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--input {shortened(text)} has no name", hint=_FORM)
    return GivenInput(name, value)


def _value(item: GivenInput, spec: TensorSpec | None, read: Read) -> Any:
    if item.file is not None:
        return _file_value(item.name or "", item.file, spec, read)
    is_string = spec is not None and spec.dtype is DType.BYTES
    try:
        value = parsed_json(item.text)
    except (ValueError, RecursionError) as error:
        if is_string or spec is None:
            return item.text
        raise InvalidInput(
            f"the value of {item.name!r} is not JSON: '{shortened(item.text)}'",
            hint=f"the model takes {spec}; for a file, put @ before its name: {item.name}=@FILE",
        ) from error
    if is_string and not isinstance(value, str | list):
        return item.text
    return value if spec is None else input_value(spec, value)


def _file_value(name: str, file: str, spec: TensorSpec | None, read: Read) -> Any:
    data = read(file)
    kind = kind_by_content(data) if file == STDIN else kind_by_name(file)
    if kind is FileKind.NPY or (kind is FileKind.NPZ and not (spec and spec.dtype is DType.BYTES)):
        return _only_array(name, file, data)
    if spec is None or spec.dtype is DType.BYTES:
        return data
    if kind is FileKind.JSON:
        return input_value(spec, parse_json(file, data))
    raise InvalidInput(
        f"{file} is neither .npy nor .json, so it cannot be the numbers of {spec}",
        hint="give numbers as a file of np.save or as JSON; for a table: mlserve predict rows.csv",
    )


def _arrays(file: str, read: Read) -> Mapping[str, Any]:
    from mlserve.rows.arrays import arrays_in  # numpy, for .npz alone

    return arrays_in(file, read(file))


def _only_array(name: str, file: str, data: bytes) -> Any:
    from mlserve.rows.arrays import only_array  # numpy, for .npy and .npz alone

    return only_array(name, file, data)
