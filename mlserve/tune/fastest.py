"""`mlserve up --auto`: which artifact of a model is the fastest whose certificate holds here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mlserve import plugins
from mlserve.backend_choice import require_regarded, require_runtime
from mlserve.bench.processes import LoadProcesses
from mlserve.certificate.verdict import Verdict
from mlserve.errors import MlserveError, ModelLoadFailed, UsageError
from mlserve.inventory import ModelFolder, StoredVersion, VersionState, model_folders
from mlserve.launch import ports
from mlserve.launch.records import read_records
from mlserve.launch.running import server_of
from mlserve.launch.signals import Interrupts
from mlserve.launch.up import request_up
from mlserve.load_options import LoadOptions, OnDrift
from mlserve.model_choice import choose
from mlserve.precision import MIN_AGREEMENT
from mlserve.served_model import ServedModel
from mlserve.serving import Serving
from mlserve.settings import DEFAULT_HOST, EMBEDDED
from mlserve.store import Store, VersionPolicy
from mlserve.system import usable_cpus
from mlserve.tune.golden import agreement_text, examining, problem_text
from mlserve.tune.judge import LEAST_GAIN, Sample
from mlserve.tune.question import asking, question_about
from mlserve.tune.trial import Trials

HEADER = ("artifact", "precision", "p50 ms", "answers/s", "agreement", "result")
_NOTHING = "-"
_CLIENTS_A_CPU = 2
_TIMEOUT = 30.0
_NO_CERTIFICATE = "it has no certificate: export it again"


@dataclass(frozen=True, slots=True)
class Contender:
    """An artifact and what was measured of it; without a `sample`, `failure` says why."""

    version: StoredVersion
    sample: Sample | None = None
    failure: str = ""

    @property
    def precision(self) -> str:
        """The precision that it was exported in."""
        manifest = self.version.artifact.manifest
        return _NOTHING if manifest is None else manifest.precision.value

    @property
    def golden(self) -> Verdict | None:
        """What its server answered to the golden inputs."""
        return None if self.sample is None else self.sample.golden

    @property
    def rate(self) -> float:
        """Answers a second to many clients; 0 if its certificate does not hold here."""
        if self.sample is None or self.golden is None or not self.golden.holds:
            return 0.0
        return self.sample.crowded.rate


@dataclass(frozen=True, slots=True)
class Fastest:
    """All artifacts of a model, and the one that is taken: None if no certificate holds here."""

    contenders: Sequence[Contender]
    winner: Contender | None

    def rows(self) -> list[list[str]]:
        """Return the table below HEADER."""
        return [
            [
                str(each.version),
                each.precision,
                *_figures(each.sample),
                agreement_text(each.golden),
                self.reason(each),
            ]
            for each in self.contenders
        ]

    def reason(self, each: Contender) -> str:
        """Say why it is taken, or why not."""
        if each.sample is None:
            return each.failure
        if each.golden is None:
            return _NO_CERTIFICATE
        if not each.golden.holds:
            return f"its certificate does not hold: {problem_text(each.golden)}"
        if each is self.winner or self.winner is None:
            return f"taken: the fastest whose certificate holds here{_caveat(each)}"
        behind = self.winner.rate / each.rate - 1
        if behind <= LEAST_GAIN:
            return "as fast, and farther from the reference"
        return f"slower: the one taken gives {behind:.0%} more answers/s"

    def to_json(self) -> list[dict[str, Any]]:
        """Return a row for each artifact."""
        return [
            {
                "artifact": str(each.version),
                "precision": each.precision,
                "taken": each is self.winner,
                "reason": self.reason(each),
                "sample": None if each.sample is None else each.sample.to_json(),
            }
            for each in self.contenders
        ]

    def require_winner(self) -> ServedModel:
        """Return the one to serve. Raises ModelLoadFailed, with what is wrong with each."""
        if self.winner is not None:
            return _model_of(self.winner.version)
        reasons = "; ".join(f"{each.version}: {self.reason(each)}" for each in self.contenders)
        raise ModelLoadFailed(
            f"no artifact gives the answers of its certificate here: {reasons}",
            hint="export the model on this machine, or choose one yourself: mlserve up --backend "
            "NAME --on-drift serve",
        )


def running_artifact(
    model: str | None, backend: str | None, store: Path | None
) -> ServedModel | None:
    """Return what a server that runs already serves of the model; None if there is none."""
    folders = _folders(model, backend, store)
    places = {folder.base_path for folder in folders}
    for record in read_records(lambda _: None):
        serves = record.serving.config is None and record.serving.only.base_path in places
        if serves and server_of(record).is_running():
            return record.serving.only
    return None


def find_fastest(
    model: str | None,
    backend: str | None,
    store: Path | None,
    options: LoadOptions,
    progress: Callable[[int, int, str], None],
) -> Fastest:
    """Measure each artifact of the model: of each backend and precision the latest whole version.

    A server is started for each in turn, asked its golden inputs, and measured briefly. Raises
    NotFound and UsageError if it is not clear which model is meant.
    """
    versions = [v for folder in _folders(model, backend, store) for v in _latest(folder)]
    found = []
    with Interrupts.watched() as interrupts, LoadProcesses() as loads:
        measure = partial(_measured, options, loads, interrupts)
        for done, version in enumerate(versions):
            progress(done, len(versions), str(version))
            try:
                found.append(Contender(version, measure(version)))
            except MlserveError as error:
                found.append(Contender(version, failure=error.message))
    return Fastest(found, _winner(found))


def _caveat(each: Contender) -> str:
    """Return a warning of an export that was let through with a low --min-agreement."""
    manifest = each.version.artifact.manifest
    share = manifest.agreement.get("share", 1.0) if manifest and manifest.agreement else 1.0
    if share >= MIN_AGREEMENT:
        return ""
    return (
        f"; WARNING: it agreed with its reference on only {share:.1%} of the inputs at its export"
    )


def _winner(found: Sequence[Contender]) -> Contender | None:
    """Return the fastest; of those that are as fast, the nearest to its reference."""
    best = max((each.rate for each in found), default=0.0)
    alike = [each for each in found if each.rate and each.rate * (1 + LEAST_GAIN) >= best]
    return min(alike, key=lambda each: each.golden.difference if each.golden else 0, default=None)


def _folders(model: str | None, backend: str | None, store: Path | None) -> list[ModelFolder]:
    folders = model_folders(Store(store), backend=backend, model=model)
    names = sorted({folder.model for folder in folders})
    if len(names) > 1:
        raise UsageError(
            f"{len(names)} models were exported: {', '.join(names)}",
            hint=f"choose one, for example --model {names[0]}",
        )
    if not folders:
        choose(backend, model, None, VersionPolicy(), store)  # raises, with what to do
    return folders


def _latest(folder: ModelFolder) -> list[StoredVersion]:
    """Return the latest whole version of each precision."""
    latest: dict[str, StoredVersion] = {}
    for version in folder.versions():
        if version.state is VersionState.WHOLE:
            latest[Contender(version).precision] = version
    return sorted(latest.values(), key=lambda each: each.artifact.version)


def _model_of(version: StoredVersion) -> ServedModel:
    artifact = version.artifact
    policy = VersionPolicy((artifact.version,))
    store = artifact.path.parents[2]
    return choose(version.backend, artifact.model, None, policy, store)


def _measured(
    options: LoadOptions, loads: LoadProcesses, interrupts: Interrupts, version: StoredVersion
) -> Sample:
    """Return what a server of it does, whatever it answers. Raises MlserveError if it fails."""
    backend = plugins.backend(version.backend)
    require_runtime(backend)
    require_regarded(backend, options)
    served = replace(_model_of(version), options=replace(options, on_drift=OnDrift.SERVE))
    where = ports.PortRequest(DEFAULT_HOST, 0, 0)
    trials = Trials(
        request=request_up(Serving((served,)), where, EMBEDDED),
        target_of=asking(served, question_about(served, (), (), _no_file), _TIMEOUT),
        many=_CLIENTS_A_CPU * usable_cpus(),
        timeout=_TIMEOUT,
        loads=loads,
        interrupts=interrupts,
        examine=examining(served, _TIMEOUT),
    )
    return trials(served.options)


def _no_file(name: str) -> bytes:
    raise ValueError(f"no input names a file, and {name} was asked for")


def _figures(sample: Sample | None) -> list[str]:
    if sample is None:
        return [_NOTHING, _NOTHING]
    return [f"{sample.alone.p50:.1f}", f"{sample.crowded.rate:.0f}"]
