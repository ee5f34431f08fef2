"""`mlserve replay`: show recorded traffic, or send it again and say what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli import completion
from mlserve.cli.arguments import StoreOption, require_none_of
from mlserve.cli.model_arguments import complete_model
from mlserve.cli.output import OutputFormat, OutputOption, StatusLine, note, print_json
from mlserve.client.endpoint import ProtocolName
from mlserve.errors import ExitCode, NotFound, UsageError

if TYPE_CHECKING:
    from mlserve.bench.questions import LoadQuestion
    from mlserve.client.endpoint import ConnectionOptions
    from mlserve.recording.reading import Recording, Summary
    from mlserve.replay.asking import Asked
    from mlserve.replay.result import ReplayResult
    from mlserve.replay.run import Replay
    from mlserve.replay.selection import Selection, Traffic

_PART, _SERVER = "Which requests", "The server"
_PATIENCE = 30.0
_MOST = 1e6
_LONG_SILENCE = 30.0
"""Seconds of silence in a replay that are worth a word before it begins."""


def replay(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="The folder that `mlserve up --record DIR` wrote to; several are replayed as one.",
            show_default=False,
        ),
    ],
    *,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENDPOINT|VERSION",
            help="Where to send the requests: the endpoint of a running server, once for each "
            "transport that was recorded (HOST:PORT and http://HOST:PORT), or an exported version, "
            "[BACKEND/]MODEL[@N], for which a server is started. Without it, the recording is "
            "only shown.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ] = None,
    shows_requests: Annotated[
        bool,
        typer.Option("--print", help="Print each recorded request as one line of JSON."),
    ] = False,
    with_bodies: Annotated[
        bool,
        typer.Option(
            "--bodies", help="With --print: also the recorded bodies and answers, in base64."
        ),
    ] = False,
    speed: Annotated[
        float,
        typer.Option(metavar="X", help="Send everything so many times as fast. Deadlines stay."),
    ] = 1.0,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="FILE|NAME=VALUE",
            help="What to ask about in place of bodies that were not recorded: an image, a table "
            "(each row is a request), or the inputs of the model, as for `mlserve predict`.",
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT=LEAST,...",
            help="What has to hold, else the exit code is 8: labels=99% or outputs=99% of the "
            "compared answers are the same, in-time=95% of the requests are answered in time, "
            "p99=200ms as the service levels of `mlserve bench`.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_PART,
            help="Only the requests for this model.",
            autocompletion=completion.models,
        ),
    ] = None,
    protocol: Annotated[
        ProtocolName | None,
        typer.Option(
            rich_help_panel=_PART, help="Only the requests that came over this transport."
        ),
    ] = None,
    begin: Annotated[
        float,
        typer.Option(
            "--from",
            metavar="SECONDS",
            rich_help_panel=_PART,
            help="Only from so many seconds after the first request on.",
        ),
    ] = 0.0,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            rich_help_panel=_PART,
            help="Only so many recorded seconds. Default: all.",
        ),
    ] = None,
    longest_gap: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            rich_help_panel=_PART,
            help="Cut times without any request, as between two runs of a server, to so many "
            "seconds. Default: they stay.",
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            rich_help_panel=_SERVER,
            help="Ask an endpoint for this version, whichever the recorded requests asked for.",
            autocompletion=completion.versions,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            rich_help_panel=_SERVER,
            help="How long callers wait that told no deadline, and were answered.",
        ),
    ] = _PATIENCE,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_SERVER,
            help="File with the endpoint's token. If it has several with names, each request has "
            "the one of the name that it was recorded with.",
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_SERVER,
            help="PEM file with the authority (CA) that signed the endpoint's certificate.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_SERVER,
            help="PEM file with a client certificate, for an endpoint that requires one.",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_SERVER,
            help="PEM file with the key of --tls-cert.",
        ),
    ] = None,
    store: StoreOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show the traffic that a server has recorded, or send it again and say what came of it.

    Each request is sent at its own time, with its own deadline and priority, over the transport
    and the API that it came by, whatever becomes of those before it. A request without a recorded
    body has the body of another of its kind, or --input. Labels are compared where answers were
    recorded; how many were answered in time, refused or late is set beside what was recorded.

    Exit codes: 0 replayed, 8 an expectation (--expect) is not held or nothing was answered, 130
    interrupted; others as for `mlserve predict`, before anything is sent.

    For example:

    mlserve replay monday

    mlserve replay monday --against onnxruntime/inception_v3@2 --expect labels=99%,in-time=95%

    mlserve replay monday --against 127.0.0.1:8500 --against http://127.0.0.1:8501 --speed 2
    """
    from mlserve.recording.reading import Recording
    from mlserve.replay.expectations import Expectations
    from mlserve.replay.run import Replay
    from mlserve.replay.selection import Selection, select, summary_of

    _check(speed, begin, duration, longest_gap, timeout)
    if with_bodies and not shows_requests:
        raise UsageError("--bodies is for --print", hint="add --print, or leave it out")
    if shows_requests and against:
        raise UsageError("--print shows the recording, and --against replays it", hint="give one")
    access = _Access(token_file, tls_ca, tls_cert, tls_key)
    if not against:
        require_none_of(
            ("--speed", None if speed == 1.0 else speed),
            ("--input", inputs),
            ("--expect", expect),
            ("--longest-gap", longest_gap),
            ("--version", version),
            ("--timeout", None if timeout == _PATIENCE else timeout),
            *access.given,
            why="is for a replay, and there is no --against: nothing would be sent",
            hint="say where to send the requests: --against HOST:PORT, or --against MODEL@N",
        )
    expected = Expectations.parse(expect)
    recording = Recording.open(folders)
    wanted = Selection(model, protocol, begin, duration)
    if shows_requests:
        _print_requests(recording, wanted, with_bodies=with_bodies)
        return
    if not against:
        _tell_summary(recording, summary_of(recording, wanted), output)
        return
    summary = summary_of(recording)
    traffic = select(recording, summary, wanted)
    progress = StatusLine()
    plan = Replay(speed, longest_gap, timeout, _question(inputs), expected, progress.show)
    with _asked(against, traffic, version, access, store, progress) as asked:
        _warn_of_silence(traffic, plan)
        try:
            result = plan.run(traffic, asked)
        finally:
            progress.clear()
    result.problems += recording.problems
    _tell(result, output)
    if not result.is_whole:
        raise typer.Exit(int(ExitCode.INTERRUPTED))
    if not result.is_as_expected:
        raise typer.Exit(int(ExitCode.DIFFERENT))


def _check(
    speed: float, begin: float, duration: float | None, gap: float | None, timeout: float
) -> None:
    """Raise UsageError, naming a number that makes no sense."""
    for option, value, least in (
        ("--speed", speed, 0.001),
        ("--from", begin, 0.0),
        ("--duration", duration, 0.001),
        ("--longest-gap", gap, 0.0),
        ("--timeout", timeout, 0.001),
    ):
        if value is not None and not least <= value < _MOST:
            raise UsageError(
                f"{option} must be a number from {least:g} on, not {value:g}",
                hint="give for example 2" if option == "--speed" else "give seconds, such as 10",
            )


@contextmanager
def _asked(
    against: Sequence[str],
    traffic: Traffic,
    version: int | None,
    access: _Access,
    store: Path | None,
    progress: StatusLine,
) -> Iterator[Asked]:
    """Yield the server that --against names. Raises UsageError."""
    from mlserve.replay.asking import given, started
    from mlserve.replay.bodies import Renaming

    versions = [text for text in against if ":" not in text]
    if not versions:
        options, tokens = access.read()
        yield given(against, options, Renaming(None, version), tokens)
        return
    if len(against) > 1:
        raise UsageError(
            f"--against {versions[0]} is a version, which has a server of its own",
            hint="give one version, or the endpoints of one server",
        )
    for option, value in (
        ("--version", version),
        *access.given,
    ):
        if value is not None:
            raise UsageError(
                f"{option} is for an endpoint, and {versions[0]} is a version",
                hint=f"name the version in --against: {versions[0].partition('@')[0]}@N"
                if option == "--version"
                else "leave it out",
            )
    if len(traffic.models) > 1:
        raise UsageError(
            f"the recorded requests are for {len(traffic.models)} models, and {versions[0]} is one:"
            f" {', '.join(traffic.models)}",
            hint=f"choose those of one, for example --model {traffic.models[0]}",
        )
    with ExitStack() as stack:
        try:
            asked = stack.enter_context(started(versions[0], store, progress.show))
        except NotFound as error:
            if {"@", "/"} & set(versions[0]):
                raise
            hint = f"{error.hint}; an endpoint has a port: --against {versions[0]}:8500"
            raise NotFound(error.message, hint=hint) from error
        yield asked


@dataclass(frozen=True, slots=True)
class _Access:
    """The files by which an endpoint lets its callers in, as they are given."""

    token_file: Path | None
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None

    @property
    def given(self) -> list[tuple[str, Path | None]]:
        """The options."""
        return [
            (f"--{each.name.replace('_', '-')}", getattr(self, each.name)) for each in fields(self)
        ]

    def read(self) -> tuple[ConnectionOptions, Mapping[str, str]]:
        """Return the options of an endpoint, and the tokens by their names. Raises UsageError."""
        from mlserve.client.endpoint import Tls
        from mlserve.credentials import TOKEN_VARIABLE, tokens_of
        from mlserve.settings import ServerSettings

        tokens: dict[str, str] = {}
        token = os.environ.get(TOKEN_VARIABLE)
        if self.token_file is not None:
            found = tokens_of(ServerSettings(token_file=self.token_file))
            token = found[0].secret.decode()
            tokens = {each.name: each.secret.decode() for each in reversed(found) if each.name}
        options: ConnectionOptions = {"token": token}
        if self.tls_ca or self.tls_cert or self.tls_key:
            options["tls"] = Tls(self.tls_ca, self.tls_cert, self.tls_key)
        return options, tokens


def _question(inputs: list[str] | None) -> LoadQuestion | None:
    """Return what is asked in place of bodies that were not recorded. Raises UsageError."""
    if not inputs:
        return None
    from mlserve.cli.load_question import load_question

    named = [text for text in inputs if "=" in text and not Path(text).exists()]
    files = [text for text in inputs if text not in named]
    return load_question(files, named, None, None, 1)


def _print_requests(recording: Recording, wanted: Selection, *, with_bodies: bool) -> None:
    """Print the requests, those of each file in the order in which they ended."""
    from mlserve.cli.replay_tables import request_line
    from mlserve.replay.selection import chosen, summary_of

    for request in chosen(recording, summary_of(recording), wanted, reads_bytes=True):
        print_json(request_line(request, with_bodies=with_bodies), indent=None)
    for problem in recording.problems:
        note(f"warning: {problem}")


def _warn_of_silence(traffic: Traffic, plan: Replay) -> None:
    silent = traffic.silence / plan.speed
    if plan.longest_gap is None and silent > _LONG_SILENCE:
        note(
            f"note: {silent:.0f} s of the replay are times without any request; --longest-gap 5 "
            "cuts them"
        )


def _tell_summary(recording: Recording, summary: Summary, output: OutputFormat) -> None:
    from mlserve.cli.replay_tables import print_summary
    from mlserve.replay.result import summary_json

    if output is OutputFormat.JSON:
        print_json(summary_json(summary, len(recording.files), recording.problems))
    else:
        print_summary(recording, summary)


def _tell(result: ReplayResult, output: OutputFormat) -> None:
    from mlserve.cli.replay_tables import print_result

    if output is OutputFormat.JSON:
        print_json(result.to_json())
    else:
        print_result(result)
