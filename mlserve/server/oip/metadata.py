"""Describe the server and its models, for the protocol and for Triton's `config`.

The protocol has one set of inputs and outputs for a model: that of the default signature. A client
can ask for the metadata of another signature by name, and gets the names of all beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlserve import __version__
from mlserve.errors import MlserveError, NotFound, Unavailable
from mlserve.server.engine.engine import Engine
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.models.models import Models
from mlserve.server.models.versions import State
from mlserve.server.oip.request import datatype_of, default_signature
from mlserve.server.request import current
from mlserve.server.telemetry.recorder import Recorder
from mlserve.server.tensors import find_signature
from mlserve.settings import ServerSettings
from mlserve.store import VersionPolicy
from mlserve.tensors import Signature, TensorSpec

API = "oip"
"""The protocol's name in the log and in metrics."""
SERVER_NAME = "mlserve"
SERVER_VERSION = __version__
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
)
"""Triton's names for what mlserve has beyond the protocol itself."""
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """One input or output; a size of -1 is not fixed, and [-1] alone stands for any shape."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @classmethod
    def from_specs(cls, specs: Iterable[TensorSpec]) -> tuple[TensorMetadata, ...]:
        """Return the metadata of these tensors. Raises InvalidInput for a type without a name."""
        return tuple(cls(spec.name, datatype_of(spec), _shape(spec)) for spec in specs)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model: its available versions, one of its signatures, and the names of all.

    `optional` are the inputs of that signature that a request may leave out. `served_by` is what
    runs the version, and the state of its certificate.
    `platform` is `mlserve_` and the name of the backend, after the protocol's `<project>_<format>`.
    `contract` is that of `LoadedVersion`.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    signature: str
    signatures: tuple[str, ...]
    optional: tuple[str, ...]
    served_by: str
    contract: str

    def to_json(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the REST answer, with more of its free parameters.

        The protocol has no field for signatures, so they are parameters too.
        """
        described = asdict(self)
        del described["contract"]
        own = {
            name: described.pop(name)
            for name in ("signature", "signatures", "optional", "served_by")
        }
        return {**described, "parameters": {**own, **parameters}}


class OipModels:
    """The models of a server, in the protocol's terms."""

    def __init__(
        self,
        engine: Engine,
        models: Models,
        limits: Mapping[str, Any],
        recorder: Recorder | None = None,
    ) -> None:
        self._engine = engine
        self._models = models
        self._limits = limits
        self._recorder = recorder

    def why_server_not_ready(self) -> MlserveError | None:
        """Return why a request would not be served now; None if it would be."""
        if self._engine.is_draining:
            return _shutting_down()
        reasons = (self.why_not_ready(model, None) for model in self._models.awaited)
        return next((reason for reason in reasons if reason is not None), None)

    def why_not_ready(self, model: str, version: int | None) -> MlserveError | None:
        """Return why that model would not be served now; None if it would be.

        Raises NotFound for a model or a version that the server does not know.
        """
        self._models.backend_of(model)
        if version is not None:
            self._models.statuses(model, version)
        if self._engine.is_draining:
            return _shutting_down()
        try:
            self._models.lease(model, version).release()
        except NotFound as error:
            return Unavailable(error.message, hint=error.hint)
        except Unavailable as error:
            return error
        return None

    def limits(self) -> dict[str, Any]:
        """Return the server's limits, and the default deadline of a request."""
        return dict(self._limits)

    def load(self) -> dict[str, Any]:
        """Return how many calls run, wait and may wait, how long callers wait, and more."""
        engine = self._engine
        load: dict[str, Any] = {
            "running": engine.running,
            "waiting": engine.waiting,
            "slots": engine.slots,
            "max_queue": engine.max_queue,
        }
        processes = [
            {
                "model": loaded.model,
                "version": loaded.version,
                "pids": [state.pid for state in loaded.processes.states],
                "restarts": loaded.processes.restarts,
            }
            for loaded in self._models.loaded()
            if loaded.processes is not None
        ]
        ladders = [
            {"model": loaded.model, "version": loaded.version, **loaded.ladder.to_json()}
            for loaded in self._models.loaded()
            if loaded.ladder is not None
        ]
        load["serving"] = [
            {
                "model": loaded.model,
                "version": loaded.version,
                "by": loaded.standing.served_by,
                "golden": loaded.standing.progress,
                "fault": loaded.standing.fault,
            }
            for loaded in self._models.loaded()
        ]
        load["patience"] = [
            {
                "transport": kind.caller.transport,
                "agent": kind.caller.agent,
                "seconds": round(kind.wait.seconds, 3),
                "is_known": kind.wait.is_known,
                "left": kind.left,
                "stayed": kind.stayed,
            }
            for kind in engine.seen_callers
        ]
        if self._recorder is not None:
            load["recording"] = self._recorder.to_json()
        if processes:
            load["processes"] = processes
        if ladders:
            load["ladders"] = ladders
        return load

    def metadata(self, model: str, version: int | None, signature: str) -> ModelDescription:
        """Return the metadata of a loaded version; the empty signature is the default one.

        Raises NotFound, Unavailable while it is loading, and InvalidInput for a signature whose
        types the protocol does not have.
        """
        with self._models.lease(model, version) as loaded:
            versions = self._versions(model, version)
            platform = platform_of(self._models.backend_of(model))
            current().served_by = loaded.standing.served_by
            return describe(loaded, versions, platform, signature)

    def _versions(self, model: str, version: int | None) -> tuple[str, ...]:
        statuses = self._models.statuses(model, version)
        return tuple(str(s.version) for s in reversed(statuses) if s.state is State.AVAILABLE)


def describe(
    loaded: LoadedVersion, versions: tuple[str, ...], platform: str, signature: str
) -> ModelDescription:
    """Return the metadata of a loaded version; the empty signature is the default one.

    Raises NotFound, and InvalidInput for a signature whose types the protocol does not have.
    """
    signatures = loaded.runner.signatures
    chosen = find_signature(signatures, signature) if signature else default_signature(signatures)
    return ModelDescription(
        loaded.model,
        versions,
        platform,
        TensorMetadata.from_specs(chosen.inputs),
        TensorMetadata.from_specs(chosen.outputs),
        chosen.name,
        tuple(sorted(name for name, item in signatures.items() if _is_expressible(item))),
        tuple(sorted(chosen.optional)),
        loaded.standing.served_by,
        loaded.contract,
    )


def platform_of(backend: str) -> str:
    """Return the platform of that backend's models, after the protocol's `<project>_<format>`."""
    return f"{SERVER_NAME}_{backend}"


def version_of(text: str, model: str) -> int | None:
    """Return the requested version number; None, the latest, for empty text. Raises NotFound."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(2**63))):
        raise NotFound(f"Could not find version {text!r} of model {model}: versions are numbers")
    return int(text)


def _shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down", hint="ask another server")


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    return (
        (-1,) if spec.shape is None else tuple(-1 if size is None else size for size in spec.shape)
    )


def _is_expressible(signature: Signature) -> bool:
    return all(spec.dtype.oip_name for spec in (*signature.inputs, *signature.outputs))


def model_config(
    model: str,
    backend: str,
    platform: str,
    policy: VersionPolicy,
    signature: Signature,
    settings: ServerSettings,
) -> dict[str, Any]:
    """Return the ModelConfig message, in its JSON form, for that signature of a model.

    Fields without a counterpart in mlserve are left out: instance groups, optimisations.

    `max_batch_size` is the limit of one request, and 0 for a signature without a batch dimension;
    above 0, `dims` leave that dimension out. Raises InvalidInput for a type without a name.
    """
    has_batches = signature.has_rows
    config: dict[str, Any] = {
        "name": model,
        "platform": platform,
        "backend": backend,
        "version_policy": _policy(policy),
        "max_batch_size": settings.max_batch_length if has_batches else 0,
        "input": [
            {
                **_tensor(spec, has_batches=has_batches),
                **({"optional": True} if spec.name in signature.optional else {}),
            }
            for spec in signature.inputs
        ],
        "output": [_tensor(spec, has_batches=has_batches) for spec in signature.outputs],
    }
    if has_batches and (settings.max_batch_size or 1) > 1:
        delay = round(settings.max_batch_delay * _MICROSECONDS)
        config["dynamic_batching"] = {"max_queue_delay_microseconds": delay}
    return config


def _policy(policy: VersionPolicy) -> dict[str, Any]:
    if policy.serves_all:
        return {"all": {}}
    if policy.versions:
        return {"specific": {"versions": list(policy.versions)}}
    return {"latest": {"num_versions": policy.latest}}


def _tensor(spec: TensorSpec, *, has_batches: bool) -> dict[str, Any]:
    sizes = (None,) if spec.shape is None else spec.shape[1:] if has_batches else spec.shape
    datatype = datatype_of(spec)
    return {
        "name": spec.name,
        "data_type": "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}",
        "dims": [-1 if size is None else size for size in sizes],
    }
