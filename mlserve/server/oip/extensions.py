"""Triton's extensions of the protocol: model configuration, statistics, model repository.

Each answer is a message in its JSON form, with names and numbers as Triton writes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from mlserve.backend import batching_of
from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, MlserveError, NotFound, Unavailable
from mlserve.server.engine.engine import Engine
from mlserve.server.listen.access import require_control
from mlserve.server.models.models import Models
from mlserve.server.models.versions import LoadStatus, State
from mlserve.server.oip.metadata import model_config, platform_of
from mlserve.server.oip.request import default_signature
from mlserve.server.telemetry.statistics import Statistics, Total, VersionStatistics
from mlserve.settings import ServerSettings

PATIENCE = 600.0
"""Seconds that a call to load or unload has if it brings no deadline."""
_IGNORED = ("unload_dependents",)
"""Parameters without effect here, as no model depends on another."""
_STATES = {
    State.START: "LOADING",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
}
"""Triton's words for the states of a version."""
_NONE = Total()


class OipExtensions:
    """Describes, counts, loads and unloads the models of a server through Triton's extensions."""

    def __init__(
        self, engine: Engine, models: Models, statistics: Statistics, *, host: str
    ) -> None:
        self._engine = engine
        self._models = models
        self._statistics = statistics
        self._host = host

    @property
    def settings(self) -> ServerSettings:
        """The settings of the server."""
        return self._engine.settings

    def config(self, model: str, version: int | None) -> dict[str, Any]:
        """Return the configuration of a loaded version. Raises NotFound, Unavailable."""
        with self._models.lease(model, version) as loaded:
            signature = default_signature(loaded.runner.signatures)
            own = batching_of(loaded.runner)
        backend, policy = self._models.backend_of(model), self._models.policy_of(model)
        settings = self._engine.settings
        if settings.max_batch_size is None and own is not None:
            settings = replace(settings, max_batch_size=own.most, max_batch_delay=0.0)
        return model_config(model, backend, platform_of(backend), policy, signature, settings)

    def statistics(self, model: str, version: int | None) -> list[dict[str, Any]]:
        """Return the statistics of served versions; of all models for an empty name.

        Raises NotFound for an unknown model or version.
        """
        if not model:
            return [item for name in self._models.names for item in self._counted(name)]
        self._models.statuses(model, version)
        return [item for item in self._counted(model) if version in (None, int(item["version"]))]

    def index(self, *, only_ready: bool) -> list[dict[str, str]]:
        """Return each version of each model, with its state and why it is not ready."""
        entries = (entry for model in self._models.names for entry in self._entries(model))
        return [entry for entry in entries if entry["state"] == "READY" or not only_ready]

    async def load(self, model: str, deadline: Deadline) -> None:
        """Look for new versions of that model now; load it if it was unloaded.

        Raises NotFound, NotAllowed, the error of a version that cannot be loaded, and
        DeadlineExceeded, after which the load goes on.
        """
        await self._control(self._models.load, model, deadline, f"{model} is being loaded")

    async def unload(self, model: str, deadline: Deadline) -> None:
        """Unload all versions of that model, each after its last request.

        Raises NotFound, NotAllowed, and DeadlineExceeded, after which the unload goes on.
        """
        doing = f"{model} finishes its last requests"
        await self._control(self._models.unload, model, deadline, doing)

    def require_control(self, *, is_from_browser: bool = False) -> None:
        """Raise NotAllowed unless this caller may load and unload models."""
        require_control(self._engine.settings, self._host, is_from_browser=is_from_browser)

    async def _control(
        self,
        change: Callable[[str], Awaitable[None]],
        model: str,
        deadline: Deadline,
        doing: str,
    ) -> None:
        if self._engine.is_draining:
            raise Unavailable("the server is shutting down", hint="ask another server")
        try:
            async with asyncio.timeout_at(deadline.expires_at):
                await change(model)
        except TimeoutError:
            raise deadline.exceeded(doing) from None

    def _counted(self, model: str) -> Iterator[dict[str, Any]]:
        for status in self._statuses(model):
            if status.state is State.AVAILABLE:
                statistics = self._statistics.of(model, status.version)
                yield _statistics_json(model, status.version, statistics)

    def _entries(self, model: str) -> Iterator[dict[str, str]]:
        statuses = self._statuses(model)
        is_unloaded = self._models.is_unloaded(model)
        if not statuses:
            yield _entry(model, "", State.END, "there is no version")
        for status in statuses:
            yield _entry(model, str(status.version), status.state, _reason(status, is_unloaded))

    def _statuses(self, model: str) -> list[LoadStatus]:
        """Return the states of its versions, oldest first; none if it has no version yet."""
        try:
            return self._models.statuses(model)[::-1]
        except NotFound:
            return []


def require_unnamed(repository: str) -> None:
    """Raise NotFound for a repository's name, as a server's only repository has none."""
    if repository:
        raise NotFound(
            f"there is no model repository {repository!r}: this server has one, without a name"
        )


def require_no_override(parameters: list[str]) -> None:
    """Raise InvalidInput for a parameter that would replace the configuration or the files."""
    unknown = [name for name in parameters if name not in _IGNORED]
    if unknown:
        raise InvalidInput(
            f"the parameter {unknown[0]!r} is not supported: a model is loaded as the server was "
            "started to serve it"
        )


def _entry(model: str, version: str, state: State, reason: str) -> dict[str, str]:
    return {"name": model, "version": version, "state": _STATES[state], "reason": reason}


def _reason(status: LoadStatus, is_unloaded: bool) -> str:
    error: MlserveError | None = status.error
    if error is not None:
        return error.message
    return "unloaded" if status.state is State.END or is_unloaded else ""


def _statistics_json(model: str, version: int, statistics: VersionStatistics) -> dict[str, Any]:
    return {
        "name": model,
        "version": str(version),
        "last_inference": round(statistics.last_request * 1000),
        "inference_count": statistics.inferences,
        "execution_count": statistics.executions,
        "inference_stats": {
            "success": _duration(statistics.success),
            "fail": _duration(statistics.fail),
            "queue": _duration(statistics.queue),
            "compute_input": _duration(statistics.decode),
            "compute_infer": _duration(statistics.run),
            "compute_output": _duration(statistics.encode),
            "cache_hit": _duration(_NONE),
            "cache_miss": _duration(_NONE),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(totals.decode),
                "compute_infer": _duration(totals.run),
                "compute_output": _duration(totals.encode),
            }
            for rows, totals in sorted(statistics.batches.items())
        ],
    }


def _duration(total: Total) -> dict[str, int]:
    return {"count": total.count, "ns": total.nanoseconds}
