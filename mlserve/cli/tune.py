"""`mlserve tune`: measure which options serve a model best here, and keep them for `up`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve.cli import completion
from mlserve.cli.arguments import (
    ExportedBackendOption,
    ExportedModelOption,
    StoreOption,
    with_options,
)
from mlserve.cli.export_choice import export_of
from mlserve.cli.output import (
    OutputFormat,
    OutputOption,
    ProgressLine,
    note,
    print_json,
    print_table,
    print_wrapped,
    say,
)
from mlserve.errors import ExitCode, UsageError, counted, either
from mlserve.load_options import LoadOptions
from mlserve.tune.preference import Preference

if TYPE_CHECKING:
    from mlserve.bench.questions import LoadQuestion
    from mlserve.served_model import ServedModel
    from mlserve.tune.run import Tuned, TuneOptions

_BUDGET = 30.0
_LOOKING = 30.0
"""Seconds that listing the folders may take."""
_INTERRUPTED = "interrupted: nothing is kept, and what was kept before stays"
_KEPT_HEADER = ("model", "backend", "version", "options", "date", "result")


@with_options(LoadOptions)
def tune(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...",
            help="Images to ask about, in turn. Default: a small one; your own photos give figures "
            "that are nearer to yours.",
            show_default=False,
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="For a model of tensors: one input of the request, as for `mlserve predict`. "
            "Repeat it for each. Default: a row that is made up from the signature.",
        ),
    ] = None,
    signature: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="For a model of tensors: the signature to ask.", show_default=False
        ),
    ] = None,
    backend: ExportedBackendOption = None,
    model: ExportedModelOption = None,
    version: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N",
            help="The version to measure. Default: the one that `mlserve up` serves.",
            autocompletion=completion.versions,
        ),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Measure a model in this folder of version folders instead of an exported one.",
        ),
    ] = None,
    store: StoreOption = None,
    prefer: Annotated[
        Preference,
        typer.Option(
            help="What the winner is best at: the answers per second to many clients, or the time "
            "of one client's answer. It may lose a tenth of the other."
        ),
    ] = Preference.THROUGHPUT,
    budget: Annotated[
        float,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Begin with no further candidate after this time. The best one is then measured "
            "again beside the default.",
        ),
    ] = _BUDGET,
    timeout: Annotated[
        float,
        typer.Option(min=0.001, metavar="SECONDS", help="The time allowed for each request."),
    ] = 30.0,
    show: Annotated[
        bool, typer.Option("--show", help="Show what is kept, and measure nothing.")
    ] = False,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget",
            help="Forget what is kept, of all models or of those that --backend and --model name.",
        ),
    ] = False,
    output: OutputOption = OutputFormat.TEXT,
    **options: Any,
) -> None:
    """Find the options that serve a model fastest on this machine, and keep them for `mlserve up`.

    Starts a server with one option after the other, measures each with one client and with two for
    each CPU, and measures the best again beside the default. The default wins unless another one is
    better by more than the measurements differ. Options that are given here stay as they are.
    Other work on this machine disturbs the figures: tune when it is idle. Ctrl-C shows what was
    measured until then, and keeps nothing.

    For example:

    mlserve tune --backend onnxruntime photos/

    mlserve tune --prefer latency

    mlserve tune --show
    """
    load_options = LoadOptions.taken_from(options)
    if show or forget:
        measured = files or inputs or signature or version or path or load_options.changed
        _require_alone(measured, both=show and forget)
        if show:
            _show(backend, model, output)
        else:
            _forget(backend, model, output)
        return
    if load_options.ladder is not None:
        raise UsageError(
            "--ladder is not for mlserve tune, which measures one version",
            hint="tune the last rung's version; its options hold for all rungs",
        )
    from mlserve.store import VersionPolicy
    from mlserve.tune.run import TuneOptions

    chosen = export_of(backend, model, path, VersionPolicy.parse(version or []), store)
    if len(chosen.expected) != 1:
        raise UsageError(
            f"{len(chosen.expected)} versions are given, and one is measured",
            hint=f"choose one, for example --version {chosen.expected[-1]}",
        )
    one = VersionPolicy(chosen.expected)  # an export meanwhile does not change what is measured
    served = replace(chosen, versions=one, options=load_options)
    question = _question(served, files or [], inputs or [], signature)
    _warn_of_others()
    try:
        tuned = _measure(served, question, TuneOptions(prefer, budget, timeout))
    except KeyboardInterrupt:
        note(_INTERRUPTED)
        raise
    if output is OutputFormat.JSON:
        print_json(tuned.to_json())
    else:
        _print(tuned)
    if tuned.is_interrupted:
        note(_INTERRUPTED)
        raise typer.Exit(int(ExitCode.INTERRUPTED))


def _measure(served: ServedModel, question: LoadQuestion, options: TuneOptions) -> Tuned:
    from mlserve.tune.question import asking
    from mlserve.tune.run import tune_model

    lines: list[ProgressLine] = []

    def show(done: int, total: int, tried: LoadOptions) -> None:
        lines.append(ProgressLine(total))
        lines[-1].draw(done, " ".join(tried.argv()) or "the defaults")

    try:
        return tune_model(served, asking(served, question, options.timeout), options, show)
    finally:
        for line in lines[-1:]:
            line.clear()


def _question(
    served: ServedModel, files: Sequence[str], inputs: Sequence[str], signature: str | None
) -> LoadQuestion:
    from mlserve.cli.images import gather
    from mlserve.deadline import Deadline
    from mlserve.rows.files import read_file
    from mlserve.rows.given import parse_inputs
    from mlserve.tune.question import question_about

    images = gather(files, Deadline.after(_LOOKING)).names if files else ()
    contents = {item.file: read_file(item.file) for item in parse_inputs(inputs) if item.file}
    return question_about(served, images, parse_inputs(inputs), contents.__getitem__, signature)


def _warn_of_others() -> None:
    """Say which servers run here already."""
    from mlserve.launch.records import read_records
    from mlserve.launch.running import server_of

    others = [record.name for record in read_records() if server_of(record).is_running()]
    if others:
        verb = "runs" if len(others) == 1 else "run"
        note(
            f"warning: {either(others, 'and')} {verb} on this machine too, and what is asked there "
            "meanwhile disturbs the figures; to end it: mlserve down"
        )


def _print(tuned: Tuned) -> None:
    from mlserve.tune.report import HEADER, MEANING, rows

    print_table(HEADER, rows(tuned))
    say()
    print_wrapped(MEANING.format(many=tuned.many), "")
    if tuned.is_interrupted:
        return
    if tuned.untried:
        longer = "measure longer (--budget), or set some options yourself"
        note(f"{counted(tuned.untried, 'candidate')} had no time: {longer}")
    if not tuned.is_kept:
        note("nothing is kept, as nothing was compared")
    elif tuned.tuning.options.changed:
        note(f"kept for mlserve up: {tuned.tuning.flags}")
    else:
        note("kept for mlserve up: the defaults, which nothing beat beyond the noise")


def _require_alone(given: object, *, both: bool) -> None:
    """Raise UsageError for what does not go with --show and --forget."""
    if both:
        raise UsageError("--show and --forget are two commands", hint="give one of them")
    if given:
        raise UsageError(
            "--show and --forget measure nothing",
            hint="leave out all but --backend, --model and --output",
        )


def _show(backend: str | None, model: str | None, output: OutputFormat) -> None:
    from mlserve.tune.machine import Machine
    from mlserve.tune.records import tunings

    kept = [each for each in tunings() if each.is_named(backend, model)]
    if output is OutputFormat.JSON:
        print_json({"tunings": [each.to_json() for each in kept]})
        return
    if not kept:
        note("nothing is kept; measure a model: mlserve tune")
        return
    here = Machine.here()
    print_table(
        _KEPT_HEADER,
        [
            [
                each.model,
                each.backend,
                str(each.version),
                each.flags,
                each.date,
                each.gain if each.machine == here else f"of another machine ({each.machine})",
            ]
            for each in kept
        ],
    )


def _forget(backend: str | None, model: str | None, output: OutputFormat) -> None:
    from mlserve.tune.records import forget

    gone = forget(lambda tuning: tuning.is_named(backend, model))
    if output is OutputFormat.JSON:
        print_json({"forgotten": [each.to_json() for each in gone]})
        return
    for each in gone:
        say(f"{each.model} ({each.backend}, version {each.version}): {each.flags}")
    if not gone:
        note("nothing was kept")
