"""`mlserve predict --input` and `--json`: one request with any inputs, and all of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlserve.background import run_within
from mlserve.cli.answers import (
    PredictFormat,
    PredictOptions,
    Sink,
    Warnings,
    writer,
)
from mlserve.cli.output import require_input
from mlserve.errors import UsageError, escaped
from mlserve.rows.columns import signature_of
from mlserve.rows.files import file_name, read_file
from mlserve.rows.given import GivenInput, values_of
from mlserve.rows.kinds import STDIN
from mlserve.rows.rendering import cell_text, json_value
from mlserve.rows.requests import JsonRequest, parse_request
from mlserve.rows.writers import Layout, arrays_of, json_line, rows_of, specs_of

if TYPE_CHECKING:
    from mlserve.client import Client
    from mlserve.deadline import Deadline
    from mlserve.tensors import Signature

_ONE_REQUEST = "a whole request"
_ROWS_HINT = "give the rows as a file: mlserve predict rows.csv, or rows.npy"


@dataclass(frozen=True, slots=True)
class OneRequest:
    """One request: what finds its inputs once the signature is known, and what to ask for."""

    inputs: Callable[[Signature], Mapping[str, Any]]
    options: PredictOptions

    def __post_init__(self) -> None:
        self.options.refuse("batch parallel resume", _ONE_REQUEST, _ROWS_HINT)
        self.options.refuse("top_k expect", _ONE_REQUEST, "it goes with image files")

    def ask(self, client: Client, deadline: Deadline, *, is_random: bool) -> int:
        """Ask, print the outputs, and return 0. Raises the errors of `mlserve.errors`."""
        options = self.options
        metadata = client.metadata(signature=options.signature, timeout=deadline)
        signature = signature_of(metadata, options.signature)
        answer = client.infer(
            self.inputs(signature),
            signature=options.signature,
            outputs=options.outputs,
            timeout=deadline,
        )
        Warnings(is_random=is_random).look(answer)
        layout = Layout(specs_of(signature, answer), has_file=False)
        with options.sink() as sink:
            _write(answer, options.format, sink, layout)
        return 0


def request_of_inputs(
    given: Sequence[GivenInput], options: PredictOptions, deadline: Deadline
) -> OneRequest:
    """Return the request of `--input`; reads its files. Raises UsageError, naming the file."""
    return OneRequest(inputs_in(given, deadline), options)


def inputs_in(
    given: Sequence[GivenInput], deadline: Deadline
) -> Callable[[Signature], Mapping[str, Any]]:
    """Return what finds the inputs of `--input` for a signature; reads their files now.

    Raises UsageError, naming the file.
    """
    contents = {item.file: _content(item.file, deadline) for item in given if item.file is not None}
    return lambda signature: values_of(given, signature, contents.__getitem__)


def request_of_json(file: str, options: PredictOptions, deadline: Deadline) -> OneRequest:
    """Return the request in a JSON file. Raises UsageError, naming the file."""
    from mlserve.rows.objects import parse_json

    data = parse_json(file_name(file), _content(file, deadline))
    return request_in(parse_request(file_name(file), data), options)


def request_in(found: JsonRequest, options: PredictOptions) -> OneRequest:
    """Return the request that a file holds; options take precedence over what it names."""
    options = replace(
        options,
        signature=options.signature or found.signature,
        outputs=options.outputs or found.outputs,
    )
    return OneRequest(found.inputs, options)


def _write(answer: Any, format_: PredictFormat, sink: Sink, layout: Layout) -> None:
    specs = {spec.name: spec for spec in layout.specs}
    outputs = {name: json_value(value, specs[name]) for name, value in answer.items()}
    rows = rows_of(answer, layout.specs)
    if format_ is PredictFormat.JSON:
        sink.show({**answer.to_json(), "outputs": outputs})
    elif format_ is PredictFormat.NPZ:
        sink.save(arrays_of(answer, specs))
    elif rows is not None and (len(rows) > 1 or format_ is not PredictFormat.TEXT):
        out = writer(format_, sink, layout, has_header=True)
        for row in rows:
            out.write(row)
        out.finish()
    elif format_ is PredictFormat.JSONL:
        sink.write(json_line({"outputs": outputs}))
    elif format_ is PredictFormat.TEXT:
        is_row = rows is not None and len(rows) == 1
        sink.write(_aligned({name: v[0] if is_row else v for name, v in outputs.items()}))
    else:
        raise UsageError(
            "the outputs are not one table: not all of them have the same rows",
            hint="take --output json or npz",
        )


def _aligned(values: Mapping[str, Any]) -> str:
    """Return `name: value` lines, the values below each other."""
    width = max(map(len, values), default=0) + 1
    lines = (
        f"{f'{name}:':<{width}} {escaped(cell_text(value))}\n" for name, value in values.items()
    )
    return "".join(lines)


def _content(file: str, deadline: Deadline) -> bytes:
    if file == STDIN:
        require_input()
    return run_within(deadline, f"reading {file_name(file)}", lambda: read_file(file))
