"""The metrics of one server, in Prometheus's text format and in OpenMetrics.

docs/observability.md describes names and labels. No label takes a value from a client: models,
versions and signatures are those being served, and every other label has a few fixed values.
`Metrics` counts what happens; `Gauges` reads the server when Prometheus asks.
"""

from __future__ import annotations

import math
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mlserve import __version__
from mlserve.admission.patience import SeenKind
from mlserve.admission.verdicts import Outcome, Refusal
from mlserve.errors import NotFound
from mlserve.ladder.climb import has_refused
from mlserve.server.body_memory import BodyMemory
from mlserve.server.models.models import Models
from mlserve.server.models.versions import LoadStatus, State
from mlserve.server.request import Purpose, RequestRecord
from mlserve.server.telemetry.log import lost_lines
from mlserve.server.telemetry.series import Counter, Histogram
from mlserve.system import resident_bytes
from mlserve.wire.headers import STAGES

_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_DEADLINE = "deadline_exceeded"
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_REFUSED_AT_THE_DOOR = {"input_too_large": "too_large", "access_denied": "unauthenticated"}
"""Errors of requests that never reached the engine, as reasons for a refusal."""


class Metrics:
    """Counts requests, reported by the ports, and their work, reported by the engine."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # series that nobody reads
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._requests = self._counter(
            "requests",
            "Requests that ended, by code.",
            *("model", "version", "signature", "api", "transport", "kind", "code"),
        )
        self._durations = self._histogram(
            "request_duration_seconds",
            "Time from the arrival of a predict request to the last byte of its answer.",
            *("model", "signature", "transport"),
        )
        self._stages = self._histogram(
            "stage_duration_seconds",
            "Time of one stage (queue, decode, run, encode) of a request.",
            *("model", "signature", "stage"),
        )
        self._refused = self._counter(
            "refused", "Requests whose work never started, by reason.", "reason"
        )
        self._work = self._counter(
            "work", "Requests whose work started and has ended, by outcome.", "outcome"
        )
        self._late = self._counter(
            "late",
            "Requests whose deadline passed in the server, by stage.",
            "stage",
        )
        self._batches = self._histogram(
            "batch_size", "Number of requests that ran together as one batch.", buckets=_SIZES
        )
        self._rungs = self._counter(
            "ladder_rows",
            "Rows of models on a ladder, by the rung that answered: certain, uncertain or refused.",
            *("model", "version", "rung", "fate"),
        )
        self._climbs = self._counter(
            "ladder_climbs", "Rows that went beyond the first rung.", "model", "version"
        )
        self._shadow = self._counter(
            "shadow",
            "Answers of the version in use, by what became of asking its shadow the same.",
            *("model", "result"),
        )
        self._split_requests = self._counter(
            "split_requests",
            "Requests that name no version under a split, by the version that got them.",
            *("model", "version", "result"),
        )
        self._split_checks = self._counter(
            "split_checks",
            "Answers of a split's version, by what became of asking the version in use the same.",
            *("model", "result"),
        )
        self._config = Gauge(
            "mlserve_config_in_force",
            "0 if the configuration file, as it is now, was refused, else 1.",
            registry=self.registry,
        )
        self.config_in_force(True)
        self._begin_at_zero()

    def request(self, ended: RequestRecord, seconds: float) -> None:
        """Count a request that ended `seconds` after it came in."""
        route = ended.route
        is_known = ended.version is not None
        model = ended.model if is_known else ""
        signature = ended.signature if is_known else ""
        version = str(ended.version) if is_known else ""
        where = (route.api, route.transport, route.purpose.value)
        self._requests.add((model, version, signature, *where, ended.code))
        if route.purpose is Purpose.PREDICT:
            self._durations.observe((model, signature, route.transport), seconds)
            is_late = ended.code == _DEADLINE and not has_refused(ended.rungs)
            if is_late and ended.refused in ("", Refusal.EXPIRED.value):
                self._late.add((ended.times.unreached(),))
            if ended.code in _REFUSED_AT_THE_DOOR and not is_known:
                self._refused.add((_REFUSED_AT_THE_DOOR[ended.code],))

    def refused(self, why: Refusal) -> None:
        """Count a call that the engine did not start."""
        self._refused.add((why.value,))

    def work(self, ended: RequestRecord, outcome: Outcome) -> None:
        """Count work that the engine started and that has ended, and time its stages.

        The request may have ended before, as its client does not wait forever.
        """
        self._work.add((outcome.value,))
        for stage, seconds in ended.times.reached():
            self._stages.observe((ended.model, ended.signature, stage), seconds)
        for row, count in Counts(ended.rungs).items():
            which = ended.model, str(ended.version)
            self._rungs.add((*which, row.name, row.fate.value), count)
            if row.place:
                self._climbs.add(which, count)

    def batch(self, size: int) -> None:
        """Count calls that were run as one batch."""
        self._batches.observe((), size)

    def shadow(self, model: str, result: str) -> None:
        """Count what came of an answer for the model's shadow."""
        self._shadow.add((model, result))

    def split_request(self, model: str, version: str, result: str) -> None:
        """Count a request that a split gave to that version."""
        self._split_requests.add((model, version, result))

    def split_check(self, model: str, result: str) -> None:
        """Count what came of an answer of a split's version."""
        self._split_checks.add((model, result))

    def config_in_force(self, value: bool) -> None:
        """Say whether the configuration file, as it is now, is in force."""
        self._config.set(value)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        counter = Counter(f"mlserve_{name}", text, labels)
        self.registry.register(counter)
        return counter

    def _histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS
    ) -> Histogram:
        histogram = Histogram(f"mlserve_{name}", text, labels, buckets)
        self.registry.register(histogram)
        return histogram

    def _begin_at_zero(self) -> None:
        """Create every series with fixed labels at zero, so that a rate sees its first count."""
        for reason in (*Refusal, *_REFUSED_AT_THE_DOOR.values()):
            self._refused.begin(str(reason))
        for outcome in Outcome:
            self._work.begin(outcome.value)
        for stage in STAGES:
            self._late.begin(stage)
        self._batches.begin()

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its media type, in the format that an Accept header asks for."""
        write, media_type = choose_encoder(accept)
        return write(self.registry), media_type


class Load(Protocol):
    """What the gauges read of the engine, which stands above this package."""

    @property
    def running(self) -> int:
        """The number of calls that are running now."""

    @property
    def waiting(self) -> int:
        """The number of calls in the queue."""

    @property
    def predicted_wait(self) -> float:
        """The seconds that a call which comes now would wait for a slot, by the estimates."""

    @property
    def max_queue(self) -> int | None:
        """The limit on `waiting`; None without one."""

    @property
    def queue_bytes(self) -> int:
        """The bytes that the calls in the queue hold."""

    @property
    def is_draining(self) -> bool:
        """Whether new calls are refused because the server stops."""

    @property
    def seen_callers(self) -> Sequence[SeenKind]:
        """The kinds of caller seen lately, and how long they wait."""


class Recorded(Protocol):
    """What the counters read of the recorder, which stands beside this package's other parts."""

    problem: str
    """Why nothing can be recorded now; empty while it can."""

    @property
    def counts(self) -> RecordedCounts:
        """How much was recorded, and how much was not."""


class RecordedCounts(Protocol):
    """How many requests were recorded and lost, and how many bodies or answers were left out."""

    recorded: int
    busy: int
    unwritten: int
    bodies: int


class RecordingMetrics(Collector):
    """How a server's recording goes (`--record`)."""

    def __init__(self, recorder: Recorded) -> None:
        self._recorder = recorder

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its value now."""
        counts, problem = self._recorder.counts, self._recorder.problem
        yield GaugeMetricFamily(
            "mlserve_recording", "1 while requests are recorded, 0 while that fails.", not problem
        )
        yield CounterMetricFamily(
            "mlserve_recorded", "Requests that were recorded.", counts.recorded
        )
        lost = CounterMetricFamily(
            "mlserve_record_lost",
            "What is missing in the recording: requests, or the body or answer of one.",
            labels=("reason",),
        )
        for reason, count in (
            ("busy", counts.busy),
            ("disk", counts.unwritten),
            ("body", counts.bodies),
        ):
            lost.add_metric((reason,), count)
        yield lost


class Splits(Protocol):
    """What the gauges read of the splits, which stand above this package."""

    def in_force(self) -> Iterable[tuple[str, int, float, bool]]:
        """Return model, version, the share that it gets now, and whether it is stopped."""


class SplitGauges(Collector):
    """The gauges of the splits of one server."""

    def __init__(self, splits: Splits) -> None:
        self._splits = splits

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its value now."""
        which = ("model", "version")
        share = GaugeMetricFamily(
            "mlserve_split_share",
            "Share of the requests naming no version that a split gives to this one now.",
            labels=which,
        )
        stopped = GaugeMetricFamily(
            "mlserve_split_stopped",
            "1 if the split of this version was stopped, as it was found to be worse, else 0.",
            labels=which,
        )
        for model, version, part, is_stopped in self._splits.in_force():
            share.add_metric((model, str(version)), part)
            stopped.add_metric((model, str(version)), is_stopped)
        yield from (share, stopped)


class Gauges(Collector):
    """The gauges of one server, and the counter of log lines that it lost."""

    def __init__(self, engine: Load, models: Models, memory: BodyMemory) -> None:
        self._engine = engine
        self._models = models
        self._memory = memory

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its value now."""
        engine, models = self._engine, self._models
        is_ready = models.is_ready and not engine.is_draining
        for name, text, value in (
            ("ready", "1 if a request would be served now, else 0.", is_ready),
            ("requests_running", "Calls that are running now.", engine.running),
            ("requests_waiting", "Calls that are waiting in the queue now.", engine.waiting),
            (
                "predicted_wait_seconds",
                "Seconds that a call which comes now would wait for a slot, by the estimates.",
                engine.predicted_wait,
            ),
            (
                "queue_limit",
                "Limit on the calls in the queue; infinite if only time and memory bound it.",
                math.inf if engine.max_queue is None else engine.max_queue,
            ),
            ("queue_bytes", "Bytes of memory held by calls in the queue.", engine.queue_bytes),
            (
                "body_bytes",
                "Bytes of memory held by requests that are being read.",
                self._memory.held,
            ),
            ("body_bytes_limit", "Limit on mlserve_body_bytes.", self._memory.most),
        ):
            yield GaugeMetricFamily(f"mlserve_{name}", text, value)
        yield self._patience()
        yield self._versions()
        yield from self._certificates()
        yield from self._processes()
        about = GaugeMetricFamily(
            "mlserve_build_info",
            "Always 1; the labels say which mlserve and backend are running.",
            labels=("version", "backend"),
        )
        for backend in sorted({models.backend_of(model) for model in models.names}):
            about.add_metric((__version__, backend), 1)
        yield about
        yield CounterMetricFamily(
            "mlserve_log_lines_lost", "Log lines that could not be written.", lost_lines()
        )

    def _patience(self) -> GaugeMetricFamily:
        """Return how long callers without a deadline wait, by transport, where it is known."""
        family = GaugeMetricFamily(
            "mlserve_patience_seconds",
            "How long callers that set no deadline wait, once enough have been seen to hang up.",
            labels=("transport",),
        )
        for kind in self._engine.seen_callers:
            transport, agent, *_ = kind.caller
            if transport and not agent and kind.wait.is_known:
                family.add_metric((transport,), kind.wait.seconds)
        return family

    def _certificates(self) -> Iterator[Metric]:
        """Yield what runs each version, and how its golden inputs are answered here."""
        which = ("model", "version")
        served = GaugeMetricFamily(
            "mlserve_certificate",
            "Always 1; the labels give what runs each version, and the state of its certificate.",
            labels=(*which, "runtime", "precision", "device", "state"),
        )
        wrong = GaugeMetricFamily(
            "mlserve_golden_inputs_wrong",
            "Golden inputs of each version whose latest answer here is wrong.",
            labels=which,
        )
        asked = GaugeMetricFamily(
            "mlserve_golden_inputs_asked",
            "Golden inputs of each version that have been asked here.",
            labels=which,
        )
        far = GaugeMetricFamily(
            "mlserve_golden_difference",
            "The largest difference from the reference in the latest answers to golden inputs.",
            labels=which,
        )
        for loaded in self._models.loaded():
            standing, name = loaded.standing, (loaded.model, str(loaded.version))
            where = standing.runs_on
            labels = (*name, where.runtime, where.precision, where.device, standing.state.value)
            served.add_metric(labels, 1)
            if standing.certificate is not None:
                wrong.add_metric(name, len(standing.problems))
                asked.add_metric(name, len(standing.verdicts))
                far.add_metric(name, standing.difference)
        yield from (served, wrong, asked, far)

    def _processes(self) -> Iterator[Metric]:
        """Yield the processes of each version that has some."""
        which = ("model", "version")
        memory = GaugeMetricFamily(
            "mlserve_process_memory_bytes",
            "Resident memory of each process that runs a version.",
            labels=(*which, "pid"),
        )
        running = GaugeMetricFamily(
            "mlserve_processes_running",
            "Processes of each version that run a call now.",
            labels=which,
        )
        restarts = CounterMetricFamily(
            "mlserve_process_restarts",
            "Processes of each version that died and were replaced.",
            labels=which,
        )
        for loaded in self._models.loaded():
            if (processes := loaded.processes) is None:
                continue
            name = loaded.model, str(loaded.version)
            states = processes.states
            running.add_metric(name, sum(state.is_running for state in states))
            restarts.add_metric(name, processes.restarts)
            for state in states:
                memory.add_metric((*name, str(state.pid)), resident_bytes(state.pid))
        yield from (memory, running, restarts)

    def _versions(self) -> GaugeMetricFamily:
        """Return one series for each version, except for those that ended without an error."""
        family = GaugeMetricFamily(
            "mlserve_model_version",
            "Always 1; the labels give the state of each version.",
            labels=("model", "version", "state"),
        )
        for model in self._models.names:
            for status in self._statuses(model):
                if status.state is not State.END or status.error is not None:
                    family.add_metric((model, str(status.version), status.state.name), 1)
        return family

    def _statuses(self, model: str) -> list[LoadStatus]:
        try:
            return self._models.statuses(model)
        except NotFound:
            return []
