"""Switch the running servers of a model to another version, without a lost request.

The version is pinned in the model's folder (`mlserve.pin`). Each server that follows the folder
loads it, answers with it, and then lets the other one go after its last request. A version that a
server cannot load leaves everything as it was, the pin included. A server of several replicas
changes one after the other, and goes back if one refuses the version.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mlserve.artifact import Artifact, version_folder
from mlserve.errors import MlserveError, ModelLoadFailed, NotFound, Unavailable
from mlserve.inventory import ModelFolder, VersionState
from mlserve.launch.followers import ASK_SECONDS, Follower, follower_of
from mlserve.launch.served import Use, uses_of
from mlserve.pin import pin_or_none, write_pin
from mlserve.settings import DOCKER, EMBEDDED

Show = Callable[[str], None]
"""Called with what is being waited for."""

_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Switched:
    """A pin that was set, or removed (`pin` None), and the servers that answer with `version`.

    `others` are servers that do not follow the pin and serve something else, each with what to do.
    """

    version: int
    pin: int | None
    servers: tuple[Use, ...]
    others: tuple[tuple[Use, str], ...]


def switch(folder: ModelFolder, version: int | None, timeout: float, show: Show) -> Switched:
    """Pin `version`, or remove the pin (None), and wait until the running servers serve it.

    Raises NotFound for a version that is not there, ModelLoadFailed for one that is damaged or that
    a server cannot load (the pin is then as before), and DeadlineExceeded after `timeout` seconds;
    the pin stays then, and the servers go on loading. Raises Unavailable if another command changes
    the pin meanwhile.
    """
    give_up = time.monotonic() + timeout
    target = _target(folder, version)
    show(f"checking the files of {folder}@{target}")
    try:
        Artifact.open(folder.base_path, folder.model, target).require_whole()
    except MlserveError as error:
        if version is None:
            path = shlex.quote(str(version_folder(folder.base_path, target)))
            error.hint = (
                "the pin stays: without it, servers would have to load that version. If it is not "
                f"wanted, rm -r {path}, and use latest again; else copy or export it again"
            )
        raise
    uses = uses_of(folder.base_path)
    followers = [follower_of(use, target) for use in uses if use.follows_pin]
    before = pin_or_none(folder.base_path)
    write_pin(folder.base_path, version)
    try:
        for waiting in _rounds(followers, give_up):
            _require_own_pin(folder, version)
            show(f"{', '.join(one.use.label for one in waiting)}: {waiting[0].doing}")
    except ModelLoadFailed:
        if pin_or_none(folder.base_path) == version:
            write_pin(folder.base_path, before)
        raise
    others = [(use, _advice(use, folder)) for use in uses if not use.follows_pin]
    unloaded = [(one.use, _load_advice(one.use)) for one in followers if one.is_unloaded]
    return Switched(
        target,
        version,
        tuple(follower.use for follower in followers if follower.is_done),
        (*unloaded, *((use, advice) for use, advice in others if not _is_on(use, target))),
    )


def _target(folder: ModelFolder, version: int | None) -> int:
    """Return the version that will be served: the given one, or the latest that is complete."""
    if version is not None:
        folder.version(version).require_complete()
        return version
    complete = [v for v in folder.versions() if v.state is not VersionState.INCOMPLETE]
    if not complete:
        raise NotFound(f"{folder} has no version", hint="export one: mlserve export")
    return complete[-1].artifact.version


def _rounds(followers: Sequence[Follower], give_up: float) -> Iterator[list[Follower]]:
    """Ask the followers until none is waited for; yield those that are, after each round."""
    waiting = list(followers)
    while waiting := [follower for follower in waiting if not follower.look()]:
        yield waiting
        if time.monotonic() >= give_up:
            raise waiting[0].not_in_time()
        time.sleep(_PAUSE)


def _require_own_pin(folder: ModelFolder, version: int | None) -> None:
    """Raise Unavailable if the pin is not the one that was set, which nothing waits for then."""
    now = pin_or_none(folder.base_path)
    if now == version:
        return
    change = f"the pin of {folder} was removed" if now is None else f"{folder}@{now} was pinned"
    raise Unavailable(
        f"{change} by another command meanwhile",
        hint="see what is served: mlserve status; then choose a version again",
    )


def _load_advice(use: Use) -> str:
    url = f"{use.record.rest_endpoint}/v2/repository/models/{use.model.model}/load"
    return f"it was unloaded by request, and serves the version once it is loaded: POST {url}"


def _is_on(use: Use, version: int) -> bool:
    """Return whether a server that does not follow the pin serves that version alone anyway."""
    if use.model.versions.versions:
        return use.model.versions.versions == (version,)
    with suppress(MlserveError), use.client() as client:
        served = {s.version for s in client.status(timeout=ASK_SECONDS) if s.is_available}
        return served == {version}
    return False


def _advice(use: Use, folder: ModelFolder) -> str:
    """Return why a server does not follow the pin, and the command that brings it there."""
    launcher = use.record.launcher
    if use.record.serving.config is not None:
        file = use.record.serving.config.path
        return f"{file} names its versions, which takes precedence; change them there"
    if use.record.traits.follows_pin:
        why = "it was started with --version, which takes precedence"
    elif launcher == DOCKER:
        why = "it runs in a container, which does not follow the pin"
    else:
        why = "it is a third-party server, which does not follow the pin"
    flags = f"--path {shlex.quote(str(folder.base_path))} --model {folder.model}"
    if launcher != EMBEDDED:
        flags += f" --launcher {launcher}"
    restart = f"mlserve down {use.name} && mlserve up --backend {folder.backend} {flags}"
    return f"{why}; restart it: {restart}"
