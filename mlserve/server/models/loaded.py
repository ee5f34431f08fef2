"""One loaded version of a model, kept until the last request that uses it has ended."""

from __future__ import annotations

import asyncio
import json

from mlserve.artifact import Artifact
from mlserve.backend import Runner
from mlserve.sources import facts_to_json
from mlserve.system import in_daemon_thread


class LoadedVersion:
    """A Runner with its artifact and a count of the requests that use it.

    Used on the event loop's thread only; the Runner itself runs on the workers' threads.
    """

    def __init__(self, artifact: Artifact, runner: Runner) -> None:
        self.artifact = artifact
        self.runner = runner
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
    def has_random_weights(self) -> bool:
        """Whether its answers mean nothing."""
        manifest = self.artifact.manifest
        return manifest is not None and manifest.has_random_weights

    @property
    def contract(self) -> str:
        """What the model wants and gives and how that is known, a JSON object in ASCII.

        Empty for a model that mlserve did not export. Answers about the model carry it beside the
        message, as neither protocol has a place for it.
        """
        manifest = self.artifact.manifest
        if manifest is None:
            return ""
        facts = facts_to_json(manifest.facts)
        return json.dumps({"pipeline": manifest.pipeline.to_json(), "facts": facts})

    def lease(self) -> LoadedVersion:
        """Itself, kept loaded until `release` is called."""
        self._leases += 1
        self._is_unused.clear()
        return self

    def release(self) -> None:
        """Ends one lease."""
        self._leases -= 1
        if not self._leases:
            self._is_unused.set()

    async def close(self) -> None:
        """Waits until nothing uses it, then closes the Runner. Called once, after the switch."""
        await self._is_unused.wait()
        await in_daemon_thread(self.runner.close)
