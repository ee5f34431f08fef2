"""What `mlserve bench` asks of servers, read from its files and options."""

from __future__ import annotations

from collections.abc import Sequence

from mlserve.bench.questions import ImageQuestion, InputsQuestion, LoadQuestion, RowsQuestion
from mlserve.cli.images import gather
from mlserve.cli.output import note
from mlserve.cli.tensors import inputs_in
from mlserve.deadline import Deadline
from mlserve.errors import UsageError
from mlserve.rows.files import Source, read_file, require_file
from mlserve.rows.given import parse_inputs
from mlserve.rows.kinds import STDIN, FileKind, is_request, tables_among
from mlserve.rows.objects import parse_json
from mlserve.rows.requests import parse_request

ASKING = 30.0
"""Seconds that reading the files and the first answers of all servers may take."""


def load_question(
    files: list[str],
    inputs: list[str],
    signature: str | None,
    outputs: Sequence[str] | None,
    batch: int,
) -> LoadQuestion:
    """Return what is asked, read from the files. Raises UsageError, naming what is wrong."""
    deadline = Deadline.after(ASKING)
    if bool(files) == bool(inputs):
        raise UsageError(
            "FILE... and --input are given, and each is a question of its own"
            if files
            else "mlserve bench needs something to ask about",
            hint="give files, as in mlserve bench horse.jpg, or the inputs of the model, as in "
            "mlserve bench --input 'x=[[1, 2, 3]]'",
        )
    if STDIN in files:
        raise UsageError("a load cannot read standard input (-)", hint="give a file")
    tables = tables_among(files)
    if batch > 1 and not tables:
        raise UsageError(
            f"--batch {batch} is for the rows of a table, and there is none",
            hint="give a table, such as rows.csv, or leave --batch out",
        )
    if inputs:
        return InputsQuestion(inputs_in(parse_inputs(inputs), deadline), signature, outputs)
    if tables:
        return _tables(tables, signature, outputs, batch)
    if signature is not None or outputs is not None:
        raise UsageError(
            "--signature and --outputs do not go with images",
            hint="to send an image as one input of any signature: --input NAME=@FILE",
        )
    return ImageQuestion(gather(files, deadline).names)


def _tables(
    tables: Sequence[tuple[str, FileKind]],
    signature: str | None,
    outputs: Sequence[str] | None,
    batch: int,
) -> LoadQuestion:
    """Return the question in tables; one JSON file may be a whole request."""
    for name, _ in tables:
        require_file(name)
    name, kind = tables[0]
    if len(tables) == 1 and kind is FileKind.JSON:
        data = parse_json(name, read_file(name))
        if is_request(data):
            if batch > 1:
                raise UsageError(
                    f"--batch {batch} is for rows, and {name} is a whole request",
                    hint="leave --batch out",
                )
            found = parse_request(name, data)
            return InputsQuestion(
                found.inputs, signature or found.signature, outputs or found.outputs
            )
    sources = [Source(name, kind) for name, kind in tables]
    return RowsQuestion(sources, batch, note, signature, outputs)
