"""Load a version of a model: its files, Runner and first request, and retries if that fails."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from mlserve.artifact import Artifact, version_folder
from mlserve.backend import Runner, keeps_state, runs_on
from mlserve.background import run_on_daemon_thread
from mlserve.errors import (
    InferenceFailed,
    MlserveError,
    ModelLoadFailed,
    PluginError,
    Unavailable,
    UsageError,
    reason_of,
)
from mlserve.images import tiny_png
from mlserve.ladder.rungs import Ladder
from mlserve.server.errors import without_frames
from mlserve.server.models.folders import Fingerprint
from mlserve.server.models.standing import Standing, begin
from mlserve.server.models.versions import LoadRetries, ModelSpec
from mlserve.server.tensors import NUMPY, Array
from mlserve.signing import require_signed
from mlserve.sources import Kind, facts_to_json
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec

_log = logging.getLogger(__name__)


class Served(NamedTuple):
    """The version that answers a call, and whether its weights are random."""

    model: str
    version: int
    has_random_weights: bool


Done = Callable[[Sequence[int] | BaseException], None]
"""Called on the event loop's thread with the sizes of the batches that ran, or their error."""


class ProcessState(NamedTuple):
    """A process that runs calls, and whether it does now."""

    pid: int
    is_running: bool


class Workers(Protocol):
    """What runs the calls of a version: the threads of the server, or processes of its own."""

    def submit(self, works: Sequence[Any], done: Done, /) -> None:
        """Do these works (`engine.work.Work`) together, and then call `done`.

        How each went is in the work itself.
        """


class WorkerProcesses(Workers, Protocol):
    """Processes that run the calls of a version."""

    @property
    def is_alive(self) -> bool:
        """Whether any of them can run a call."""

    @property
    def states(self) -> Sequence[ProcessState]:
        """Those that are alive."""

    @property
    def restarts(self) -> int:
        """How many died and were replaced."""


class LoadedVersion:
    """A Runner with its artifact and a count of the requests that use it.

    Used on the event loop's thread only; the Runner itself runs on the workers' threads. A lease
    that ends with a block of code is its `with` block; any other ends with `release`.
    """

    def __init__(
        self,
        artifact: Artifact,
        runner: Runner,
        width: int | None = None,
        processes: WorkerProcesses | None = None,
        standing: Standing | None = None,
        ladder: Ladder | None = None,
    ) -> None:
        self.artifact = artifact
        self.runner = runner
        self.processes = processes
        """What runs its calls; None for the threads of the server."""
        self.ladder = ladder
        """The versions that answer in its place; its own is the last of them."""
        manifest = artifact.manifest
        is_random = manifest is not None and manifest.has_random_weights
        self.standing = standing or Standing(runs_on(runner, "unknown runtime", manifest))
        """How its answers stand to its certificate."""
        self.served = Served(artifact.model, artifact.version, is_random)
        self.width = width
        """The most calls of the model that run at once; None leaves it to the server."""
        self._digests = {} if manifest is None else artifact.digests()
        self._leases = 0
        self._is_unused = asyncio.Event()
        self._is_unused.set()

    @property
    def model(self) -> str:
        """The name it is served under."""
        return self.artifact.model

    @property
    def version(self) -> int:
        """The number of its folder."""
        return self.artifact.version

    @property
    def is_alive(self) -> bool:
        """Whether there is something that runs its calls."""
        return self.processes is None or self.processes.is_alive

    @property
    def fault(self) -> MlserveError | None:
        """Why calls are refused now; None if they are served."""
        if not self.is_alive:
            return Unavailable(
                f"the processes of version {self.version} of {self.model} have ended, and others "
                "are started",
                hint="see why with mlserve logs",
            )
        return self.drift

    @property
    def drift(self) -> MlserveError | None:
        """Why calls are refused as long as its golden inputs are answered wrong; None if not."""
        if not self.standing.has_drifted:  # each request asks
            return None
        return self.standing.refusal(f"version {self.version} of {self.model}")

    @property
    def has_dependent_rows(self) -> bool:
        """Whether a row's answer is known to depend on the rows beside it."""
        manifest = self.artifact.manifest
        return manifest is not None and manifest.has_dependent_rows

    @property
    def contract(self) -> str:
        """The model's inputs and outputs and how they are known, as a JSON object in ASCII.

        `digests` are those of the artifact when it was loaded. Empty for a model that mlserve did
        not export. Answers about the model carry it beside the message, as neither protocol has a
        field for it.
        """
        manifest = self.artifact.manifest
        if manifest is None:
            return ""
        facts = facts_to_json(manifest.facts)
        if manifest.pipeline is None:
            columns = {name: list(names) for name, names in manifest.columns.items()}
            dependent = {"has_dependent_rows": True} if manifest.has_dependent_rows else {}
            said = {"facts": facts, "columns": columns, **dependent}
        else:
            said = {"pipeline": manifest.pipeline.to_json(), "facts": facts}
        return json.dumps({**said, "digests": self._digests})

    def lease(self) -> LoadedVersion:
        """Return itself, kept loaded until `release` is called or its `with` block is left."""
        self._leases += 1
        self._is_unused.clear()
        return self

    def release(self) -> None:
        """End one lease."""
        self._leases -= 1
        if not self._leases:
            self._is_unused.set()

    def __enter__(self) -> LoadedVersion:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def close(self) -> None:
        """Wait until nothing uses it, then close the Runner. Called once, after the switch."""
        await self._is_unused.wait()
        await run_on_daemon_thread(self.runner.close)


Open = Callable[[ModelSpec, int], LoadedVersion]
"""Loads and warms up a version. Can take minutes, and raises nothing but MlserveError."""


def open_version(source: ModelSpec, version: int) -> LoadedVersion:
    """Load and warm up a version in this process.

    Its signature is checked first, if one is required, and its files are, before the runtime sees
    any of them. A version that fails its first request is closed. Raises nothing but MlserveError.
    """
    with as_load_error(source, version):
        if source.signed_by is not None:
            require_signed(version_folder(source.base_path, version), source.signed_by)
        started = time.monotonic()
        artifact = Artifact.open(source.base_path, source.model, version)
        artifact.require_whole()
        runner = source.backend.load(artifact, source.options)
        try:
            warm_up(artifact, runner)
            standing = begin(source, artifact, runner, time.monotonic() - started)
        except BaseException:
            runner.close()
            raise
        return LoadedVersion(artifact, runner, source.width, standing=standing)


@contextmanager
def as_load_error(source: ModelSpec, version: int) -> Iterator[None]:
    """Turn whatever the block raises into an MlserveError that says why the version is not loaded.

    It has no traceback and no cause, whose frames would keep the model in memory for as long as the
    error is shown.
    """
    try:
        yield
    except UsageError as error:  # the manifest cannot be read
        failure: MlserveError = ModelLoadFailed(error.message, hint=error.hint)
    except MlserveError as error:
        failure = error
    except ImportError as error:
        failure = PluginError(
            f"the backend {source.backend.name!r} cannot be used: {reason_of(error)}",
            hint=source.backend.install_hint,
        )
    except BaseException as error:  # noqa: BLE001 - a panic in a runtime in Rust is no Exception
        _log.exception("version %d of %s failed to load", version, source.model)
        failure = ModelLoadFailed(
            f"version {version} failed to load: {reason_of(error)}",
            hint="the server's log has the traceback",
        )
    else:
        return
    raise without_frames(failure) from None


def warm_up(artifact: Artifact, runner: Runner) -> None:
    """Run the model once.

    An image classifier exported by mlserve must answer an image with each of its signatures, or
    ModelLoadFailed is raised. Any other model has its default signature run on zeros, and a failure
    is only logged. One that keeps state is left as it is.
    """
    if artifact.manifest is None or artifact.manifest.kind is Kind.TENSORS:
        if not keeps_state(runner):  # else the first request would not be the model's first
            _warm_on_zeros(runner)
        return
    for signature in artifact.manifest.signatures:
        try:
            runner.run(signature.name, first_inputs(signature, tiny_png()))
        except Exception as error:
            raise ModelLoadFailed(
                f"version {artifact.version} does not answer its first request: {reason_of(error)}",
                hint="export the model again",
            ) from error


def _warm_on_zeros(runner: Runner) -> None:
    names = sorted(runner.signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name))
    for name in names[:1]:
        try:
            runner.run(name, first_inputs(runner.signatures[name], b""))
        except Exception as error:  # noqa: BLE001 - zeros need not be an input that it takes
            level = logging.WARNING if isinstance(error, InferenceFailed) else logging.INFO
            _log.log(level, "the warm-up run of %r with zeros gave: %s", name, error)


def first_inputs(signature: Signature, text: bytes) -> dict[str, Array]:
    """Return inputs for a first run: zeros, and that text where the signature takes bytes."""
    return {spec.name: _filler(spec, text) for spec in signature.inputs}


def _filler(spec: TensorSpec, text: bytes) -> Array:
    shape = (
        (1,) if spec.shape is None else tuple(1 if size is None else size for size in spec.shape)
    )
    if spec.dtype is DType.BYTES:
        return np.full(shape, text, dtype=object)
    return np.zeros(shape, NUMPY[spec.dtype])


@dataclass(slots=True)
class _Failure:
    """A version that failed to load: the state of its folder, and when to try again."""

    fingerprint: Fingerprint
    attempts: int
    retry_at: float


class FailedVersions:
    """The versions that failed to load, and when to retry them."""

    def __init__(self, retries: LoadRetries) -> None:
        self._retries = retries
        self._failures: dict[int, _Failure] = {}

    def __contains__(self, version: int) -> bool:
        return version in self._failures

    @property
    def has_given_up(self) -> bool:
        """Whether versions failed and none of them will be retried."""
        failures = self._failures.values()
        return bool(failures) and not any(map(self._is_tried_again, failures))

    def times(self) -> list[float]:
        """Return when versions are retried, on the monotonic clock."""
        return [f.retry_at for f in self._failures.values() if self._is_tried_again(f)]

    def note(self, version: int, fingerprint: Fingerprint, error: MlserveError) -> None:
        """Record that a version failed while its folder had this fingerprint."""
        before = self._failures.get(version)
        attempts = 1 if before is None or before.fingerprint != fingerprint else before.attempts + 1
        if isinstance(error, PluginError):  # a missing package will not install itself
            attempts = self._retries.times + 1
        retry_at = time.monotonic() + self._retries.seconds
        self._failures[version] = failure = _Failure(fingerprint, attempts, retry_at)
        if self._is_tried_again(failure):
            _log.info("version %d is tried again in %g s", version, self._retries.seconds)

    def is_due(self, version: int, fingerprint: Fingerprint) -> bool:
        """Return whether to retry a failed version now: it is time, or its folder has changed."""
        failure = self._failures[version]
        is_time = self._is_tried_again(failure) and failure.retry_at <= time.monotonic()
        return is_time or failure.fingerprint != fingerprint

    def forget(self, version: int) -> None:
        """Forget the failure of a version that was loaded."""
        self._failures.pop(version, None)

    def keep(self, versions: Collection[int]) -> None:
        """Forget all versions but these."""
        self._failures = {v: f for v, f in self._failures.items() if v in versions}

    def _is_tried_again(self, failure: _Failure) -> bool:
        return failure.attempts <= self._retries.times
