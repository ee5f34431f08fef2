"""`mlserve bench`: send loads to servers, and print how they bear them."""

from __future__ import annotations

import asyncio
from itertools import chain, count
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli.arguments import OutputsOption, SignatureOption, names_in
from mlserve.cli.output import (
    OutputFormat,
    OutputOption,
    ReportOption,
    StatusLine,
    note,
    print_json,
    require_writable,
    write_report,
)
from mlserve.cli.repeat import command_line
from mlserve.cli.server_choice import ServerChoice, with_server_choices
from mlserve.errors import ExitCode, UsageError, shortened

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mlserve.bench.arrivals import Arrivals
    from mlserve.bench.load import Load, Window
    from mlserve.bench.measure import Step
    from mlserve.bench.questions import LoadQuestion
    from mlserve.bench.result import BenchResult
    from mlserve.bench.target import Target

_LOAD, _SEARCH = "Load", "Search"
_CONCURRENCY = "1,4,16"
_ARRIVALS = "poisson"
_TIMEOUT = 5.0
_SWEEP = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)
"""The rates of --sweep, as parts of what a closed loop reaches."""
_MOST = 10**6
"""The largest number of clients, requests a second, or seconds."""
_MOST_PROCESSES = 256


@with_server_choices
def bench(
    ctx: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...",
            help="What to ask about: image files or folders, or tables, as for `mlserve predict`. "
            "Several are asked about in turn.",
            show_default=False,
        ),
    ] = None,
    *,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="One input of the model, as for `mlserve predict`; repeat it for each.",
        ),
    ] = None,
    signature: SignatureOption = None,
    outputs: OutputsOption = None,
    batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Rows of a table in one request.")
    ] = 1,
    choices: list[ServerChoice],
    concurrency: Annotated[
        str | None,
        typer.Option(
            metavar="N,...",
            rich_help_panel=_LOAD,
            help="Closed loop: so many clients, each of which asks again as soon as it has its "
            f"answer. Default: {_CONCURRENCY}, without --rate, --sweep and --find-rate.",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="R,...",
            rich_help_panel=_LOAD,
            help="Open loop: so many requests a second, at moments planned ahead. Latency counts "
            "from the planned moment, so that a server that stalls cannot hide it.",
        ),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            rich_help_panel=_LOAD,
            help="Open loop at eight rates, from a quarter of what a closed loop reaches to one "
            "and a half times that.",
        ),
    ] = False,
    arrivals: Annotated[
        str,
        typer.Option(
            metavar="poisson|even|gamma:CV",
            rich_help_panel=_LOAD,
            help="How the moments of an open loop are spread: poisson as from many independent "
            "clients, even as from a clock, gamma:CV with that coefficient of variation (above 1: "
            "bursts).",
        ),
    ] = _ARRIVALS,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            rich_help_panel=_LOAD,
            help="The time allowed for each request. Only an answer within it counts as goodput.",
        ),
    ] = _TIMEOUT,
    leave_after: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS,...",
            rich_help_panel=_LOAD,
            help="Instead of --timeout: callers tell the server no deadline, and hang up after so "
            "many seconds, as curl --max-time and browsers do. With several values, in turn.",
            show_default=False,
        ),
    ] = None,
    duration: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", rich_help_panel=_LOAD, help="How long each load is measured."
        ),
    ] = 5.0,
    warm_up: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            rich_help_panel=_LOAD,
            help="How long each load runs before that, not counted.",
        ),
    ] = 1.0,
    repeat: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            rich_help_panel=_LOAD,
            help="How often each load is measured, the servers in turn.",
        ),
    ] = 3,
    seed: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=_LOAD, help="The seed of the arrivals.")
    ] = 0,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=_MOST_PROCESSES,
            metavar="N",
            rich_help_panel=_LOAD,
            help="Processes that send the load. Default: 1, and more above 4000 requests a "
            "second or 64 clients.",
            show_default=False,
        ),
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option(
            metavar="pN=TIME,...",
            rich_help_panel=_SEARCH,
            help="A service level, such as p99=200ms: 99 % of all requests are answered within "
            "200 ms. A refusal or an error misses it. The exit code is 8 if it is not held.",
        ),
    ] = None,
    find_rate: Annotated[
        bool,
        typer.Option(
            "--find-rate",
            rich_help_panel=_SEARCH,
            help="Look for the highest rate of an open loop that holds the service level.",
        ),
    ] = False,
    output: OutputOption = OutputFormat.TEXT,
    report: ReportOption = None,
) -> None:
    """Send loads to servers, and print how many answers came in time, and how soon.

    Any server that `mlserve predict` can ask over TensorFlow Serving's API or the Open Inference
    Protocol. Several are measured in turn, so that all see the same machine. Every request is
    encoded once, before the load. Ctrl-C prints what was measured until then.

    Exit codes: 0 measured, 8 a service level (--slo) is not held or no request of a load was
    answered, 130 interrupted; others as for `mlserve predict`, if the first is not answered.

    For example:

    mlserve bench horse.jpg --concurrency 1,4,16

    mlserve bench horse.jpg --endpoint 127.0.0.1:8500 --endpoint gpu:8500 --report bench.html

    mlserve bench rows.csv --rate 200 --timeout 0.5 --arrivals gamma:2

    mlserve bench --input 'x=[[5.1, 3.5, 1.4, 0.2]]' --find-rate --slo p99=50ms
    """
    from mlserve.bench.findings import no_answer
    from mlserve.bench.load import Window
    from mlserve.bench.processes import require_files
    from mlserve.bench.result import BenchResult
    from mlserve.bench.slo import Slo
    from mlserve.cli.load_question import load_question

    is_open = rate is not None or sweep or find_rate
    loads = _loads(concurrency, rate, arrivals, is_alone=not (sweep or find_rate))
    if not is_open and (arrivals != _ARRIVALS or seed):
        raise UsageError(
            f"{'--seed' if arrivals == _ARRIVALS else '--arrivals'} is for an open loop, and there "
            "is none",
            hint="add --rate, --sweep or --find-rate, or leave it out",
        )
    for load in loads:
        require_files(load, processes)
    level = None if slo is None else Slo.parse(slo)
    waits = _numbers("--leave-after", leave_after, "seconds, such as 1 or 0.5,1,5")
    if waits and timeout != _TIMEOUT:
        raise UsageError(
            "--timeout is told to the server, and callers that --leave-after tell it nothing",
            hint="give one of them",
        )
    window = _window(Window(duration, warm_up, max(waits, default=timeout), seed))
    if find_rate and level is None:
        raise UsageError(
            "--find-rate needs the service level that the rate has to hold",
            hint="give for example --slo p99=200ms",
        )
    if report is not None:
        require_writable(report)
    question = load_question(files or [], inputs or [], signature, names_in(outputs), batch)
    targets = _targets(choices, question, window.timeout, waits)
    result = BenchResult(targets, window, repeat, slo=level, leave_after=waits)
    progress = _Progress()
    try:
        _run(result, loads, arrivals, processes, progress, sweep=sweep, find_rate=find_rate)
    finally:
        progress.clear()
    _tell(result, output)
    if report is not None:
        from mlserve.bench.report import page

        write_report(report, page(result, command_line(ctx)))
    if not result.is_whole:
        raise typer.Exit(int(ExitCode.INTERRUPTED))
    if silence := no_answer(result):
        note(silence)
    if silence or not result.holds_slo:
        raise typer.Exit(int(ExitCode.DIFFERENT))


def _run(
    result: BenchResult,
    loads: list[Load],
    arrivals: str,
    processes: int | None,
    progress: _Progress,
    *,
    sweep: bool,
    find_rate: bool,
) -> None:
    """Run all loads, then the sweep, then the searches; an interrupt leaves out what follows."""
    from mlserve.bench.arrivals import Arrivals
    from mlserve.bench.find_rate import RateSearch
    from mlserve.bench.measure import measure

    targets, window, spread = result.targets, result.window, Arrivals.parse(arrivals)
    if sweep:
        loads = [*loads, *_swept(targets, window, spread, processes, progress)]
    result.take(
        measure(
            targets, loads, window, repeat=result.repeat, processes=processes, progress=progress
        )
    )
    if not find_rate or result.slo is None:
        return
    search = RateSearch(result.slo, window, spread, result.repeat, processes, progress)
    for target in targets:
        if result.is_whole:
            result.found.append(search.run(target))


def _swept(
    targets: Sequence[Target],
    window: Window,
    arrivals: Arrivals,
    processes: int | None,
    progress: _Progress,
) -> list[Load]:
    """Return the rates of a sweep: around the most that a closed loop reaches on any target."""
    from mlserve.bench.find_rate import CLIENTS
    from mlserve.bench.load import ClosedLoop, OpenLoop
    from mlserve.bench.measure import measure

    found = measure(targets, [ClosedLoop(CLIENTS)], window, processes=processes, progress=progress)
    if not all(each.is_whole for each in found):
        raise KeyboardInterrupt
    most = max(each.goodput for each in found)
    if not most:
        raise UsageError(
            f"none of {CLIENTS} clients got an answer within {window.timeout:g} s, so there is no "
            "rate to begin with",
            hint="allow more time with --timeout, or give the rates with --rate",
        )
    return [OpenLoop(round(part * most, 2), arrivals) for part in _SWEEP]


def _loads(
    concurrency: str | None, rate: str | None, arrivals: str, *, is_alone: bool
) -> list[Load]:
    """Return the loads of these options. Raises UsageError, naming a value that is not one."""
    from mlserve.bench.arrivals import Arrivals
    from mlserve.bench.load import ClosedLoop, OpenLoop

    spread = Arrivals.parse(arrivals)
    if concurrency is None and rate is None and is_alone:
        concurrency = _CONCURRENCY
    clients = _numbers("--concurrency", concurrency, "whole numbers from 1, such as 1,4,16")
    rates = _numbers("--rate", rate, "requests a second, such as 100 or 50,100,200")
    if any(count != int(count) for count in clients):
        raise UsageError(
            f"--concurrency {concurrency!r} has a number that is not whole",
            hint="give whole numbers from 1, such as 1,4,16",
        )
    return [
        *(ClosedLoop(int(count)) for count in clients),
        *(OpenLoop(each, spread) for each in rates),
    ]


def _numbers(option: str, text: str | None, what: str) -> list[float]:
    """Return the numbers that an option lists. Raises UsageError, naming one that cannot be."""
    numbers: list[float] = []
    for part in () if text is None else text.split(","):
        try:
            numbers.append(float(part))
        except ValueError:
            raise UsageError(
                f"{option} {shortened(text or '')!r} is not a list of numbers", hint=f"give {what}"
            ) from None
        if not 0 < numbers[-1] <= _MOST:
            raise UsageError(
                f"{option} {shortened(part.strip())!r} is not a number above 0 and up to {_MOST:,}",
                hint=f"give {what}",
            )
    return numbers


def _window(window: Window) -> Window:
    for option, value, least in (
        ("--duration", window.seconds, 0.1),
        ("--warm-up", window.warm_up, 0.0),
        ("--timeout", window.timeout, 0.001),
    ):
        if not least <= value < _MOST:
            raise UsageError(
                f"{option} {value:g} is not a time that a load can have",
                hint=f"give seconds, at least {least:g}",
            )
    return window


def _targets(
    choices: Sequence[ServerChoice],
    question: LoadQuestion,
    timeout: float,
    leave_after: Sequence[float],
) -> list[Target]:
    """Return the servers, each once it has answered the question."""
    from mlserve.bench.questions import target_for
    from mlserve.cli.load_question import ASKING
    from mlserve.client.endpoint import Connection
    from mlserve.deadline import Deadline

    deadline = Deadline.after(ASKING)
    targets: list[Target] = []
    for choice in choices:
        found = choice.find(deadline)
        connection = Connection.to(found.endpoint, found.protocol, **found.options)
        name = choice.backend or choice.server or str(connection.endpoint)
        name = _unlike(name, {target.name for target in targets})
        asked = target_for(name, connection, question, timeout, deadline, is_told=not leave_after)
        targets.append(asyncio.run(asked).left_after(leave_after))
    return targets


def _unlike(name: str, others: Collection[str]) -> str:
    """Return the name, with a number where another target has it."""
    numbered = (f"{name} ({number})" for number in count(2))
    return next(each for each in chain((name,), numbered) if each not in others)


class _Progress:
    """Shows the load that runs now as one line on a terminal."""

    def __init__(self) -> None:
        self._line = StatusLine()

    def __call__(self, step: Step) -> None:
        place = f"[{step.number}/{step.count}] " if step.count else ""
        self._line.show(f"{place}{step.target}: {step.load}")

    def clear(self) -> None:
        """Clear the line."""
        self._line.clear()


def _tell(result: BenchResult, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        print_json(result.to_json())
        return
    from mlserve.cli.bench_tables import print_result

    print_result(result)
