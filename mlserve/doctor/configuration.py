"""Check of the configuration file: whether each command can read it, and each server start."""

from __future__ import annotations

from collections.abc import Iterator

from mlserve.config.document import Document
from mlserve.config.servers import ServerConfig, require_files, servers_of
from mlserve.doctor.finding import Area, Finding, Status
from mlserve.errors import MlserveError
from mlserve.model_choice import configured_models

_NAME = "configuration"


def look_at_configuration(
    document: Document | None, problem: MlserveError | None
) -> Iterator[Finding]:
    """Check the file that counts here; `problem` is why it could not be read, if it could not."""
    if problem is not None:
        yield Finding(Area.FILES, _NAME, Status.FAIL, problem.message, problem.hint)
    elif document is None:
        yield Finding(Area.FILES, _NAME, Status.OK, "no mlserve.toml: the built-in defaults")
    else:
        yield from _servers(document)


def _servers(document: Document) -> Iterator[Finding]:
    """Check the servers of the file. Models that are not exported break only their own server."""
    try:
        servers = servers_of(document).servers
    except MlserveError as error:
        yield _warning(error)
        return
    for server in servers:
        try:
            require_files(document, server)
            configured_models(server)
        except MlserveError as error:
            yield _warning(error)
    yield Finding(Area.FILES, _NAME, Status.OK, f"{document.path}: {_in_words(servers)}")


def _warning(error: MlserveError) -> Finding:
    return Finding(Area.FILES, _NAME, Status.WARN, error.message, error.hint)


def _in_words(servers: tuple[ServerConfig, ...]) -> str:
    names = ", ".join(server.name for server in servers)
    return f"servers {names}" if servers else "no servers"
