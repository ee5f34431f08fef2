"""`mlserve predict`: ask a running server about images, tables, or the inputs of one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from mlserve.background import run_within
from mlserve.cli import clock
from mlserve.cli.answers import PredictFormat, PredictOptions
from mlserve.cli.arguments import OutputsOption, SignatureOption, names_in, with_fields
from mlserve.cli.images import Images, Inputs, gather
from mlserve.cli.output import require_input
from mlserve.cli.server_choice import MaxAttemptsOption, PriorityOption, ServerChoice
from mlserve.cli.tracing import OtlpOption, traced
from mlserve.client import Retries
from mlserve.client.adapter import USUAL_TOP_K
from mlserve.client.client import DEFAULT_TIMEOUT
from mlserve.client.endpoint import DEFAULT_MAX_ANSWER_BYTES
from mlserve.client.retries import DEFAULT_RETRIES
from mlserve.deadline import Deadline
from mlserve.errors import UsageError
from mlserve.rows.kinds import STDIN, FileKind, Stdin, is_text_line, kind_by_content, tables_among

if TYPE_CHECKING:
    from mlserve.client import Client

_ROWS = "Rows"
_INPUT_HELP = (
    "One input of the model, NAME=VALUE; repeat it for each. VALUE is JSON, such as [[1, 2, 3]]; "
    "@FILE is the content of a file: an array (.npy), JSON (.json) for numbers, and for an input "
    "of strings the bytes of any other file. For an input of strings, a VALUE that is not JSON is "
    'the string itself, and so is a number; "..." is a string of JSON. A value without the batch '
    "dimension is a batch of one. @FILE.npz, without a name, gives each of its arrays."
)


class InputFormat(StrEnum):
    """What standard input can be said to hold."""

    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    JSON = "json"
    IMAGE = "image"


@with_fields
def predict(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...",
            help="Image files. A folder stands for the *.jpg, *.jpeg and *.png files in it, "
            "sorted; - is standard input. Or tables: *.csv, *.tsv, *.jsonl (one object a row), "
            "*.json (an array of objects), *.npy and *.npz (rows along the first dimension).",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="The total time allowed, in seconds, from the start of the command to the answer. "
            "With several files or requests, each one after the first has this time from when its "
            "turn comes.",
        ),
    ] = DEFAULT_TIMEOUT,
    *,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=VALUE", help=_INPUT_HELP)
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="A whole request in a JSON file (- is standard input), in the form of TensorFlow "
            "Serving (instances or inputs, signature_name) or of Open Inference (inputs, outputs).",
        ),
    ] = None,
    format_: Annotated[
        InputFormat | None,
        typer.Option(
            "--format",
            help="What standard input (-) holds. Default: what its beginning looks like.",
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|folders",
            help="The labels that the images should get: a CSV file of file names and labels, or "
            "`folders`, where the name of each image's folder is its label. Prints the accuracy "
            "and which labels were confused, in place of the answers.",
            show_default=False,
        ),
    ] = None,
    signature: SignatureOption = None,
    outputs: OutputsOption = None,
    choice: ServerChoice,
    max_attempts: MaxAttemptsOption = DEFAULT_RETRIES.max_attempts,
    priority: PriorityOption = None,
    throttle: Annotated[
        bool,
        typer.Option(
            "--throttle/--no-throttle",
            help="Spare a server that refuses calls: of those that it would most likely refuse "
            "too, most are not sent.",
        ),
    ] = True,
    otlp: OtlpOption = None,
    max_answer_bytes: Annotated[
        int,
        typer.Option(min=1, metavar="BYTES", help="The largest answer to read, in bytes."),
    ] = DEFAULT_MAX_ANSWER_BYTES,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Print the K best labels of an image with their scores. Default: text prints the "
            f"best label alone, json the best {USUAL_TOP_K} with scores.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            rich_help_panel=_ROWS,
            help="Rows of a table in one request. Default: 128, and fewer if the server refuses "
            "that many. If a request fails, its rows are asked again in smaller requests.",
            show_default=False,
        ),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            rich_help_panel=_ROWS,
            help="Requests in flight. Default: 1 for images; for tables, what the server has "
            "room for.",
            show_default=False,
        ),
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output-file",
            metavar="FILE",
            rich_help_panel=_ROWS,
            help="Write the answers to this new file; its suffix (.csv, .tsv, .json, .jsonl, .npz) "
            "says the format if --output does not.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel=_ROWS,
            help="Go on with the --output-file of a run that was stopped: ask only about the rows "
            "without an answer in it.",
        ),
    ] = False,
    output: Annotated[
        PredictFormat | None,
        typer.Option(
            "--output",
            help="text: the label of an image; for several files, one line `file<TAB>label` for "
            "each (with --top-k, `file<TAB>score<TAB>index<TAB>label`); for tables, tab-separated "
            "columns; for one request, `name: value` lines. json: one object; for several files or "
            'rows, {"predictions": [...]}. jsonl: one object a line, as the answers arrive. csv '
            "(not for images): a column for each output, or for each element of a vector. npz (not "
            "for images): an array for each output. Default: text.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Ask a server about images, rows of a table, or any inputs, and print the answers.

    A bad file or row does not stop the others: its error names it, and the exit code is that of
    the first error. After Ctrl-C the answers that are there are written, and stderr says how many.

    Exit codes: 0 answered, 2 bad call or input, 5 no server or not ready, 6 the server failed,
    7 overloaded, 124 no answer in time, 130 interrupted.

    For example:

    label=$(mlserve predict horse.jpg --timeout 5)

    mlserve predict photos/ --top-k 3 --output jsonl

    mlserve predict labelled/ --expect folders

    mlserve predict --input 'x=[[5.1, 3.5, 1.4, 0.2]]'

    mlserve predict --input text="good morning" --input photo=@horse.jpg

    mlserve predict rows.csv --output-file answers.csv --parallel 4
    """
    deadline = Deadline.after(timeout, since=clock.command_start())
    options = PredictOptions(
        signature=signature,
        outputs=names_in(outputs),
        batch=batch,
        parallel=parallel,
        output=output,
        output_file=output_file,
        resume=resume,
        top_k=top_k,
        expect=expect,
    )
    call = _call_of(files or [], inputs or [], json_file, format_, options, deadline)
    server = choice.find(deadline)
    connected = server.connect(
        retries=Retries(max_attempts),
        max_answer_bytes=max_answer_bytes,
        priority=priority,
        throttle=throttle,
    )
    with traced(otlp), connected as client:
        if isinstance(call, _OfStdin):
            call = call.recognised(options, deadline)
        exit_code = call.ask(client, deadline, is_random=server.has_random_weights)
    if exit_code:
        raise typer.Exit(exit_code)


class PredictCall(Protocol):
    """What the command line asks; `ask` prints the answers and returns the exit code."""

    def ask(self, client: Client, deadline: Deadline, *, is_random: bool) -> int: ...


def _call_of(
    files: Sequence[str],
    inputs: Sequence[str],
    json_file: str | None,
    format_: InputFormat | None,
    options: PredictOptions,
    deadline: Deadline,
) -> PredictCall | _OfStdin:
    """Return what is asked. Raises UsageError for what cannot be read."""
    options.check()
    _require_one_kind(files, inputs, json_file)
    if format_ is not None and STDIN not in files:
        raise UsageError(
            "--format is for standard input", hint="the suffix of a file says what is in it"
        )
    if format_ not in (None, InputFormat.IMAGE) and len(files) > 1:
        raise UsageError(
            f"--format {format_}: a table on standard input does not go with other files",
            hint="ask about it with a command of its own",
        )
    if options.expect is not None and STDIN in files:
        raise UsageError(
            "--expect does not go with standard input, which has no file name",
            hint="give the image as a file",
        )
    if inputs:
        from mlserve.cli.tensors import request_of_inputs
        from mlserve.rows.given import parse_inputs

        return request_of_inputs(parse_inputs(inputs), options, deadline)
    if json_file is not None:
        from mlserve.cli.tensors import request_of_json

        return request_of_json(json_file, options, deadline)
    if STDIN in files and len(files) == 1 and format_ is not InputFormat.IMAGE:
        require_input()
        return _OfStdin(format_)
    return _call_on_files(files, options, deadline)


def _require_one_kind(files: Sequence[str], inputs: Sequence[str], json_file: str | None) -> None:
    given = [
        name
        for name, value in (("FILE...", files), ("--input", inputs), ("--json", json_file))
        if value
    ]
    if len(given) == 1:
        return
    if not given:
        raise UsageError(
            "mlserve predict needs FILE...",
            hint="give it: mlserve predict FILE..., or the model's inputs: mlserve predict --input "
            "NAME=VALUE; see mlserve predict --help",
        )
    raise UsageError(
        f"{given[0]} and {given[1]} are given, and each is a question of its own",
        hint="ask with one of them; a file as one input of a model is --input NAME=@FILE",
    )


def _call_on_files(
    files: Sequence[str], options: PredictOptions, deadline: Deadline
) -> PredictCall:
    tables = tables_among(files)
    if not tables:
        return _call_on_images(files, options, deadline)
    from mlserve.cli.tables import call_on_tables

    return call_on_tables(tables, options, deadline)


def _call_on_images(files: Sequence[str], options: PredictOptions, deadline: Deadline) -> Images:
    found = gather(files, deadline, takes_stdin=True)
    if options.expect is None:
        return Images(found, options)
    # Few questions are about known labels.
    from mlserve.cli.expect import accuracy_printer, expected_labels

    expect = options.expect
    expected = run_within(
        deadline, f"reading {expect}", lambda: expected_labels(expect, files, found.names)
    )
    printer = partial(accuracy_printer, expected, options.format)
    return Images(found, options, printer=printer)


@dataclass(frozen=True, slots=True)
class _OfStdin:
    """A question on standard input, which is not read before there is a server to ask."""

    format: InputFormat | None

    def recognised(self, options: PredictOptions, deadline: Deadline) -> PredictCall:
        """Return the question, by its format or else by its first bytes."""
        stdin = Stdin()
        if self.format is None:
            start = run_within(deadline, "reading standard input", stdin.peek)
            kind = kind_by_content(start)
            if kind is FileKind.IMAGE and is_text_line(start):
                raise UsageError(
                    "standard input is text, but its first line has no comma, semicolon or tab",
                    hint="for a table with one column: --format csv",
                )
        else:
            kind = FileKind(self.format.value)
        if kind is FileKind.IMAGE:
            return Images(Inputs((STDIN,), is_batch=False), options, stdin)
        from mlserve.cli.tables import call_on_stdin

        return call_on_stdin(stdin, kind, options, deadline)
