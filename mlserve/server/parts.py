"""All parts of a server but its ports: models, engine, telemetry, both protocols, and the drain.

Two programs are built from them: `app`, a process with ports of its own, and `mlserve.asgi`, which
puts the REST API inside another ASGI application.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mlserve import otlp
from mlserve.otlp import CollectorAddress
from mlserve.server.body_memory import BodyMemory
from mlserve.server.decisions import DecisionsPage, DecisionsService
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.examiner import Examiner
from mlserve.server.listen.access import RestGate
from mlserve.server.listen.drain import InFlight, drain
from mlserve.server.listen.grpc.service import UnaryMethod, unary_methods
from mlserve.server.listen.limits import limits_of
from mlserve.server.listen.routes import RestApp
from mlserve.server.models.ladders import open_served
from mlserve.server.models.loading import Open
from mlserve.server.models.models import Models
from mlserve.server.models.versions import ModelSpec
from mlserve.server.oip.extensions import OipExtensions
from mlserve.server.oip.grpc import OipGrpcService
from mlserve.server.oip.rest import OipRestExtensions, OipRestService
from mlserve.server.page.paths import PeoplePages
from mlserve.server.pages import MetricsPage, OpenApiPage
from mlserve.server.processes.choice import Opener
from mlserve.server.rollout.pages import ShadowMethod, ShadowPage
from mlserve.server.rollout.rollouts import Rollouts
from mlserve.server.telemetry.metrics import Gauges, Metrics, RecordingMetrics, SplitGauges
from mlserve.server.telemetry.recorder import Recorder
from mlserve.server.telemetry.request_log import RequestLog
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.server.tfs.grpc import ModelReload, TfsGrpcService
from mlserve.server.tfs.rest import CORS, TfsRestService
from mlserve.settings import ServerSettings
from mlserve.system import usable_cpus

if TYPE_CHECKING:
    from mlserve.server.telemetry.otlp.exporting import OtlpExport


class ServerParts:
    """A server without ports. All methods are for the event loop that it was made on.

    `host` is the address that the server listens on, which decides who may load and unload models;
    None for one that has no ports of its own, which runs its models in its own process. `threads`
    None is one for each CPU. `on_change` is
    called whenever `is_ready` may have changed. Raises UsageError for a folder of recordings that
    cannot be written, PluginError for settings that need an extra which is not installed.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        host: str | None,
        threads: int | None,
        on_change: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.in_flight = InFlight()
        self.memory = BodyMemory(settings.body_memory)
        self.metrics = Metrics()
        self.request_log = RequestLog(settings)
        self.telemetry = Telemetry(self.metrics, self.request_log)
        self.recorder = None if settings.record is None else Recorder(settings)
        if self.recorder is not None:
            self.telemetry.add_observer(self.recorder)
            self.metrics.registry.register(RecordingMetrics(self.recorder))
            self.telemetry.sample_with(self.recorder.sample)
        self._on_change = on_change
        opener = Opener(settings.log_format, self._note_change)
        open_ = open_served if host is None else opener.open
        self.models = Models(self._note_change, _signed(open_, settings.require_signature))
        self.engine = Engine(
            self.models, self.telemetry, threads=threads or usable_cpus(), settings=settings
        )
        self.rollouts = Rollouts(self.engine, self.models, self.telemetry)
        self.telemetry.add_observer(self.rollouts)
        self.limits = limits_of(settings, has_ports=host is not None)
        self._examiner = Examiner(self.engine, self.models, self._note_change)
        self.metrics.registry.register(Gauges(self.engine, self.models, self.memory))
        self.metrics.registry.register(SplitGauges(self.rollouts))
        self._export = self._exported()
        self._host = host or ""
        self._extensions = OipExtensions(
            self.engine, self.models, self.telemetry.statistics, host=self._host
        )

    @property
    def is_ready(self) -> bool:
        """Whether a request to each model would be served now."""
        return self.models.is_ready and not self.in_flight.is_draining

    def _note_change(self) -> None:
        self.rollouts.follow()
        self._on_change()

    def grpc_methods(self, reload: ModelReload | None) -> Mapping[str, UnaryMethod]:
        """Return the methods of both protocols over gRPC; `reload` changes the models."""
        served = self.engine, self.models
        tfs = TfsGrpcService(*served, host=self._host, reload=reload)
        oip = OipGrpcService(*served, self._extensions, self.limits, self.recorder)
        more = ShadowMethod(self.engine, self.rollouts).methods()
        own = DecisionsService(self.engine).services(more)
        services = (*tfs.services(), *oip.services(), *own)
        return unary_methods(services, self.engine, self.telemetry, self.in_flight)

    def rest_app(self, metrics_path: str | None = None, *, cors: bool = False) -> RestApp:
        """Return the ASGI application of both protocols over REST, with the other pages.

        `metrics_path` is another path of the metrics. `cors` allows pages of every origin.
        """
        served = self.engine, self.models
        has_page = self.settings.page
        protocols = (
            TfsRestService(*served, self.memory),
            OipRestExtensions(self._extensions, self.memory),
            OipRestService(*served, self.memory, self.limits, self.recorder),
            DecisionsPage(self.engine),
            ShadowPage(self.rollouts),
            OpenApiPage(has_page=has_page),
            MetricsPage(self.metrics, metrics_path),
            *((PeoplePages(),) if has_page else ()),
        )
        gate = RestGate.from_settings(self.settings)
        return RestApp(gate, protocols, self.telemetry, self.in_flight, CORS if cors else ())

    async def serve_models(self, sources: Sequence[ModelSpec]) -> None:
        """Find, load and follow these models; never returns.

        Raises NotFound, and the error of a model when none of its versions can be loaded.
        """
        await self.models.begin(sources)
        await self.run_models()

    async def run_models(self) -> NoReturn:
        """Load and follow the models that `models.begin` was given, and ask golden questions.

        Raises what `Models.run` raises.
        """
        examination = asyncio.create_task(self._examiner.run())
        try:
            await self.models.run()
        finally:
            examination.cancel()

    async def drain(self, give_up: float) -> bool:
        """Drain the server (`listen.drain.drain`) until `give_up`, a time on the monotonic clock.

        Returns False if something has not ended by then.
        """
        served = self.engine, self.models, self.in_flight
        closing = asyncio.create_task(self.rollouts.close())
        has_ended = await drain(*served, give_up, on_begin=self._on_change)
        await asyncio.wait((closing,), timeout=max(0.0, give_up - time.monotonic()))
        return has_ended

    async def end_telemetry(self, give_up: float) -> None:
        """Write the last lines and records, and send the last spans and metrics.

        Called when no more requests come. It gives up sending at `give_up`.
        """
        self.request_log.close()
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.close)
        if self._export is not None:
            await self._export.close(give_up)

    def _exported(self) -> OtlpExport | None:
        """Begin to send spans and metrics, if the settings say where to."""
        settings, telemetry = self.settings, self.telemetry
        if settings.otlp is None:
            return None
        otlp.require_sdk()
        from mlserve.server.telemetry.otlp.exporting import OtlpExport

        collector = CollectorAddress.of(settings.otlp)
        export = OtlpExport(collector, self.metrics.registry, is_secure=settings.speaks_tls)
        telemetry.sampler = export
        telemetry.add_observer(export)
        return export


def _signed(open_: Open, key: Path | None) -> Open:
    """Return what opens only versions that this key signed, wherever their model comes from."""
    if key is None:
        return open_
    return lambda source, version: open_(replace(source, signed_by=key), version)
