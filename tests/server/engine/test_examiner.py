"""Golden questions about a version that is served: drift is found, said everywhere, and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve import plugins
from mlserve.backend import Runner
from mlserve.errors import InvalidInput, Unavailable
from mlserve.load_options import LoadOptions, OnDrift
from mlserve.server.engine.examiner import Examiner
from mlserve.server.models.versions import ModelSpec
from mlserve.server.parts import ServerParts
from mlserve.settings import ServerSettings
from mlserve.store import VersionPolicy
from tests.harness.ladder import BACKEND, write_table_rungs

pytestmark = pytest.mark.framework

PREDICT = "/v1/models/table:predict"
BODY = {"instances": [[1.0, 0.0, 0.0]]}
ALL = VersionPolicy(serves_all=True)


class Shaken:
    """A Runner whose answers are changed or which fails, once `change` is set."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.change: Callable[[Any], Any] | None = None
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, signature: str, inputs: Any, deadline: Any = None) -> Any:
        """Run the real one, and change what it gives."""
        self.asked += 1
        outputs = self._runner.run(signature, inputs, deadline)
        if self.change is None:
            return outputs
        return {name: self.change(array) for name, array in outputs.items()}


class Served:
    """A server without ports of the table model, and an examiner whose probe is always due."""

    def __init__(self, on_drift: OnDrift) -> None:
        self.changes = 0
        settings, options = ServerSettings(), LoadOptions(on_drift=on_drift, threads=1)
        self.options = options
        self.parts = ServerParts(settings, host=None, threads=1, on_change=self._count)
        engine, models = self.parts.engine, self.parts.models
        self.examiner = Examiner(engine, models, self._count, probe_seconds=0.0)
        transport = httpx.ASGITransport(app=self.parts.rest_app())
        self.rest = httpx.AsyncClient(transport=transport, base_url="http://m")

    def _count(self) -> None:
        self.changes += 1

    def shake(self, version: int) -> Shaken:
        """Put a Shaken around the Runner of that version."""
        [loaded] = [each for each in self.parts.models.loaded() if each.version == version]
        loaded.runner = Shaken(loaded.runner)
        return loaded.runner

    async def predict(self, version: int | None = None) -> httpx.Response:
        """Ask the model."""
        path = PREDICT if version is None else PREDICT.replace(":", f"/versions/{version}:")
        return await self.rest.post(path, json=BODY)

    async def text(self, path: str) -> str:
        """Return what is at that path."""
        return (await self.rest.get(path)).text


@asynccontextmanager
async def serving(
    store: Path, policy: VersionPolicy = ALL, on_drift: OnDrift = OnDrift.REFUSE
) -> AsyncIterator[Served]:
    """Serve the versions of the table model."""
    write_table_rungs(store)
    served = Served(on_drift)
    backend, path = plugins.backend(BACKEND), store / BACKEND / "table"
    models = served.parts.models
    await models.begin([ModelSpec(backend, "table", path, policy, served.options, 0.0)])
    running = asyncio.create_task(models.run())
    while len(list(models.loaded())) < 2:
        assert not running.done()
        await asyncio.sleep(0.001)
    yield served
    running.cancel()
    await served.rest.aclose()
    served.parts.engine.close()
    for loaded in models.loaded():
        loaded.runner.close()


def during(store: Path, ask: Callable[[Served], Awaitable[None]], **options: Any) -> None:
    """Run `ask` with a server."""

    async def run() -> None:
        async with serving(store, **options) as served:
            await ask(served)

    asyncio.run(run())


def test_drift_is_found_said_and_ends_and_the_good_version_goes_on(tmp_path: Path) -> None:
    async def ask(served: Served) -> None:
        shaken = served.shake(2)
        await served.examiner.ask_due()
        good = await served.predict()
        assert good.headers["x-mlserve-served-by"].endswith("certificate=holds")

        changes = served.changes
        shaken.change = lambda array: array * 0.5
        await served.examiner.ask_due()
        assert served.changes == changes + 1
        fallback = await served.predict()
        assert fallback.status_code == 200, "version 1 goes on"
        assert "; fp32; " in fallback.headers["x-mlserve-served-by"]
        refused = await served.predict(2)
        assert refused.status_code == 503
        assert "version 2 of table is not served: 1 of 1 golden inputs" in refused.json()["error"]
        assert "row: probabilities differs by" in await served.text("/v1/models/table")
        assert (await served.rest.get("/v2/models/table/versions/2/ready")).status_code == 503
        assert (await served.rest.get("/v2/health/ready")).status_code == 200
        metrics = await served.text("/metrics")
        assert 'mlserve_golden_inputs_wrong{model="table",version="2"} 1.0' in metrics
        assert 'state="drifted",version="2"} 1.0' in metrics

        shaken.change = None
        await served.examiner.ask_due()
        assert (await served.predict(2)).status_code == 200
        assert 'state="drifted"' not in await served.text("/metrics")

    during(tmp_path, ask)


def test_a_server_with_no_right_version_is_not_ready(tmp_path: Path) -> None:
    async def ask(served: Served) -> None:
        for version in (1, 2):
            served.shake(version).change = lambda array: array * 0.5
        await served.examiner.ask_due()
        assert not served.parts.is_ready
        assert (await served.predict()).status_code == 503
        assert (await served.rest.get("/v2/health/ready")).status_code == 503

    during(tmp_path, ask)


def test_drift_is_served_and_said_with_on_drift_serve(tmp_path: Path) -> None:
    async def ask(served: Served) -> None:
        served.shake(2).change = lambda array: array * 0.5
        await served.examiner.ask_due()
        answer = await served.predict()
        assert answer.status_code == 200
        assert answer.headers["x-mlserve-served-by"].endswith("certificate=drifted")
        assert served.parts.is_ready

    during(tmp_path, ask, on_drift=OnDrift.SERVE)


def test_a_runtime_that_fails_in_its_own_way_is_asked_again(tmp_path: Path) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("the driver is gone")

    async def ask(served: Served) -> None:
        shaken = served.shake(2)
        shaken.change = broken
        await served.examiner.ask_due()
        assert "internal error" in (await served.predict(2)).json()["error"]
        shaken.change = None
        await served.examiner.ask_due()
        assert (await served.predict(2)).status_code == 200

    during(tmp_path, ask)


def test_nothing_is_asked_once_a_request_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(served: Served) -> None:
        shaken = [served.shake(version) for version in (1, 2)]
        monkeypatch.setattr(type(served.parts.engine), "unfinished", 1)
        await served.examiner.ask_due()
        assert [each.asked for each in shaken] == [0, 0]

    during(tmp_path, ask)


@pytest.mark.parametrize(
    ("error", "is_wrong"), [(Unavailable("it ended"), False), (InvalidInput("no"), True)]
)
def test_a_process_that_ends_during_a_question_has_not_drifted(
    tmp_path: Path, error: Exception, is_wrong: bool
) -> None:
    class Processes:
        is_alive, states, restarts = True, (), 0

        def submit(self, works: Any, done: Callable[[Any], None]) -> None:
            works[0].error = error
            done([1])

    async def ask(served: Served) -> None:
        loaded = next(iter(served.parts.models.loaded()))
        loaded.processes = Processes()
        await served.examiner.ask_due()
        assert loaded.standing.has_drifted is is_wrong
        assert (loaded.standing.was_right is None) is not is_wrong
        loaded.processes = None

    during(tmp_path, ask)
