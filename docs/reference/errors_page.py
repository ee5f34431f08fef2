"""errors.md: every error, its exit code, and what it is on the wire."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator
from http import HTTPStatus
from importlib import import_module

import grpc
from page_blocks import link, table, wrapped

from mlserve import errors
from mlserve.errors import ExitCode, MlserveError, Transient
from mlserve.wire import status as wire

_LOCAL = (ExitCode.PLUGIN, ExitCode.EXPORT)
"""The exit codes of errors that happen before a server is asked, so never on the wire."""
_PACKAGES_OF_COMMANDS = ("mlserve.cli", "mlserve.client", "mlserve.launch")


def blocks() -> Iterator[str]:
    """The blocks of the page, under its title."""
    yield wrapped(
        "Every failure has an exit code, an `error:` line that names the value at fault, and a "
        "`hint:` line with the next step, both on standard error. In Python it is a class of "
        "`mlserve` with `message`, `hint` and `details`."
    )
    yield "## Exit codes"
    yield _exit_codes()
    yield wrapped(
        "One bad file among many does not stop `mlserve predict`: its exit code is that of the "
        "first error. `mlserve compare` ends with 0 only if all labels agree and every difference "
        "is inside `--tolerance`, so that it can gate a release."
    )
    yield "## All errors"
    yield table(
        ("error", "kind", "exit code", "gRPC", "HTTP", "retried"),
        (
            (
                link(error.__name__, f"`{error.__name__}`"),
                f"`{_kind(error)}`",
                str(int(error.exit_code)),
                *_on_the_wire(error),
                "yes" if issubclass(error, Transient) else "no",
            )
            for error in _classes()
        ),
    )
    yield wrapped(
        "*kind* is the error's name in JSON, in the server's log and in the label `code` of its "
        "[metrics](../observability.md). *gRPC* and *HTTP* are what mlserve's own server answers, "
        "on both of its protocols. *retried*: the client asks again, up to `--max-attempts` times "
        "within the one deadline, and after the time that the server names (`Retry-After` in "
        "seconds on REST, `grpc-retry-pushback-ms` on gRPC)."
    )
    for error in _classes():
        about, _, remedy = inspect.cleandoc(error.__doc__ or "").partition("\n\n")
        yield f"### {error.__name__}"
        yield wrapped(about)
        yield wrapped(f"**What to do:** {remedy}")
    yield from _errors_as_json()
    yield from _statuses()


def _exit_codes() -> str:
    by_code: dict[ExitCode, list[str]] = {}
    for error in _classes():
        shown = link(error.__name__, f"`{error.__name__}`")
        by_code.setdefault(error.exit_code, []).append(shown)
    return table(
        ("code", "what happened", "errors"),
        ((str(int(code)), code.meaning, ", ".join(by_code.get(code, []))) for code in ExitCode),
    )


def _classes() -> Iterator[type[MlserveError]]:
    """The errors that can be raised, in the order of their source."""
    for error in vars(errors).values():
        is_error = inspect.isclass(error) and issubclass(error, MlserveError)
        if is_error and error not in (MlserveError, Transient):
            yield error


def _kind(error: type[MlserveError]) -> str:
    return error("").kind


def _on_the_wire(error: type[MlserveError]) -> tuple[str, str]:
    if error.exit_code in _LOCAL:
        return "-", "-"
    return wire.grpc_status(error("")), str(wire.http_status(error("")))


def _errors_as_json() -> Iterator[str]:
    yield "## As JSON"
    yield wrapped(
        'With `--output json` an error is `{"error": {...}}` on standard error. `kind`, '
        "`message`, `hint` and `exit_code` are always there. A call to a server adds `retries` "
        "(the failed attempts), `request_id`, `trace_id` and `timings_ms`; a server that did not "
        "start adds the end of its `log`."
    )
    yield wrapped(
        "A few errors of the command line have a `kind` of their own, and the exit code of the "
        "error that they belong to:"
    )
    yield table(
        ("kind", "what happened", "belongs to"),
        (
            (f"`{_kind(error)}`", _meaning(error), link(parent.__name__, f"`{parent.__name__}`"))
            for error, parent in _narrower()
        ),
    )


def _meaning(error: type[MlserveError]) -> str:
    return " ".join(re.split("[;\n]\n?", inspect.cleandoc(error.__doc__ or ""))[0].split()).rstrip(
        "."
    )


def _narrower() -> Iterator[tuple[type[MlserveError], type[MlserveError]]]:
    """The errors of the command line that have a kind of their own, each with its parent."""
    for package in map(import_module, _PACKAGES_OF_COMMANDS):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    for parent in _classes():
        for error in sorted(parent.__subclasses__(), key=_kind_or_name):
            is_ours = error.__module__.startswith((*_PACKAGES_OF_COMMANDS, "mlserve.plugins"))
            if is_ours and _kind(error) != _kind(parent):
                yield error, parent


def _kind_or_name(error: type[MlserveError]) -> str:
    return error.__name__


def _statuses() -> Iterator[str]:
    yield "## What the client makes of a server's status"
    yield wrapped(
        "This holds for every server, also for one that is not mlserve's. Where the words of a "
        "known server say more than its status, they decide: TensorFlow Serving and Triton, for "
        "instance, have no status of their own for a request that expired in their queue. A status "
        "that is not listed is `InferenceFailed`."
    )
    by_error: dict[type[MlserveError], tuple[list[str], list[str]]] = {}
    for code in grpc.StatusCode:
        error = wire.error_from_grpc(code.name)
        by_error.setdefault(error, ([], []))[0].append(code.name)
    for http in HTTPStatus:
        error = wire.error_from_http(http.value)
        by_error.setdefault(error, ([], []))[1].append(str(http.value))
    yield table(
        ("error", "gRPC", "HTTP"),
        (
            (link(error.__name__, f"`{error.__name__}`"), *map(", ".join, by_error[error]))
            for error in _classes()
            if error in by_error and error is not errors.InferenceFailed
        ),
    )
