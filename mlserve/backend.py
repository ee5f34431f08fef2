"""The interface that a runtime implements to be served: `Backend`, `Runner` and `ServerSpec`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from mlserve.artifact import Artifact, Manifest
from mlserve.deadline import Deadline
from mlserve.errors import ExportError, InvalidInput, ModelLoadFailed, either, first_of
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Feature
from mlserve.precision import Precision
from mlserve.sources import Model, TensorModel
from mlserve.tensors import Signature

if TYPE_CHECKING:
    import numpy as np

    Tensors = Mapping[str, np.ndarray[Any, Any]]
    """Arrays by name. Strings are object arrays of `bytes`."""


RUN_IT_OUTSIDE = (
    "run the same input through the model outside the server: the error is its runtime's own"
)
"""The hint for a run that the runtime itself ended with an error, which the message quotes."""


class Runner(Protocol):
    """The minimum to serve a model: named signatures and a way to run them.

    `run` is called from several threads at once.
    """

    @property
    def signatures(self) -> Mapping[str, Signature]: ...

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        """Return the outputs of that signature for these inputs.

        Names and dtypes have been checked against the signature, and shapes too unless the runner
        `judges_shapes`. Optional inputs may be absent; the Runner then uses its defaults. Raises
        InvalidInput (or NotAnImage, InputTooLarge) for an input that the model rejects, naming its
        index in the batch, and InferenceFailed when the runtime fails. An interruptible runtime
        stops when the deadline passes and raises DeadlineExceeded; any other ignores the deadline.
        """

    def close(self) -> None:
        """Free the memory; called once, after the last `run` has returned."""


def require_one_length(inputs: Tensors) -> None:
    """Raise InvalidInput, with their lengths, unless all inputs have the same number of rows.

    For a runtime that would take the rows of one input for all, or fail in words of its own. What a
    server checks before `run` leaves it to the Runner: a signature cannot say which of its open
    sizes are the same.
    """
    lengths = {name: len(array) for name, array in inputs.items() if array.ndim}
    if len(set(lengths.values())) > 1:
        listed = first_of([f"{name!r} has {length}" for name, length in lengths.items()], 8)
        raise InvalidInput(
            f"the inputs differ in the number of rows: {listed}",
            hint="send a value of each input for each row",
        )


def judges_shapes(runner: Runner) -> bool:
    """Return whether the runtime checks shapes itself: its `judges_shapes` is true.

    As in TensorFlow Serving, the signature is then only a description: some models in use accept
    more than theirs declares. Otherwise requests must match the signature.
    """
    return bool(getattr(runner, "judges_shapes", False))


def keeps_state(runner: Runner) -> bool:
    """Return whether an answer may depend on the calls before it: its `keeps_state` is true.

    Such a version gets several processes only if that is asked for: each has a state of its own.
    """
    return bool(getattr(runner, "keeps_state", False))


@runtime_checkable
class LimitsThreads(Protocol):
    """A Runner whose calls can run on more threads or fewer."""

    def limit_threads(self, threads: int) -> None:
        """Let the calls of `run` from this thread use at most that many threads from now on.

        0 is as many as the Runner likes. Called on the thread that calls `run`, before each call:
        it must take microseconds. A call on fewer threads gives the same outputs.
        """


def limit_threads(runner: Runner, threads: int) -> None:
    """Say how many threads the next call of `run` from this thread may use; 0 is any number.

    A call that is alone in the server may use all threads. Where several run side by side, each
    does best on its share: no call waits for another's threads. A Runner that does not
    `limit_threads` decides for itself.
    """
    limit = getattr(runner, "limit_threads", None)  # isinstance takes longer than a short run
    if limit is not None:
        limit(threads)


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests are run together: up to `most` as one batch.

    While `at_once` batches run, the next one waits and grows; otherwise it starts immediately. With
    None, each waits for more requests as long as `--max-batch-delay` says.
    """

    most: int
    at_once: int | None = None


def batching_of(runner: Runner) -> Batching | None:
    """Return the Runner's `batching`, how its runtime likes it: None if it does not say.

    `--max-batch-size` takes precedence over `most`; below `at_once`, its batches wait for more
    requests as long as `--max-batch-delay` says.
    """
    batching = getattr(runner, "batching", None)
    return batching if isinstance(batching, Batching) else None


@dataclass(frozen=True, slots=True)
class RunsOn:
    """What runs a model: the runtime with its version, the precision, and the device."""

    runtime: str
    precision: str
    device: str

    def __str__(self) -> str:
        return f"{self.runtime}; {self.precision}; {self.device}"


def runs_on(runner: Runner, backend: str, manifest: Manifest | None) -> RunsOn:
    """Return the Runner's `runs_on`; from the backend's name and the manifest if it has none."""
    found = getattr(runner, "runs_on", None)
    if isinstance(found, RunsOn):
        return found
    precision = "unknown precision" if manifest is None else manifest.precision.value
    return RunsOn(backend, precision, "unknown device")


@dataclass(frozen=True)
class Quantization:
    """How a model is exported in another precision than fp32.

    `calibration` are inputs of the model by name: of a classifier {"images": float32[1, height,
    width, depth]}, prepared by its pipeline; of a model of tensors a batch each. It can be read
    several times. `expected` are the right classes of these inputs, if they are known.
    """

    precision: Precision
    calibration: Sequence[Tensors] = ()
    expected: Sequence[int] | None = None


@runtime_checkable
class HasDefinitions(Protocol):
    """A Runner of a model whose file holds TensorFlow SignatureDef messages."""

    @property
    def definitions(self) -> Mapping[str, bytes]:
        """Return the serialized messages by signature, including those that are not served.

        TensorFlow Serving's API shows them unchanged. For any other Runner they are built from the
        signatures.
        """


class ImageStages(Protocol):
    """The steps of an exported image pipeline, one by one, for `mlserve compare`.

    Each takes the bytes of one image file and raises what `Runner.run` raises for a bad one.
    """

    def decoded(self, image: bytes) -> np.ndarray[Any, Any]:
        """uint8[height, width, 3]: the pixels as the decoder gives them, RGB."""

    def resized(self, image: bytes) -> np.ndarray[Any, Any]:
        """float32[height, width, depth]: the model's input, resized and scaled."""

    def scores(self, image: bytes) -> np.ndarray[Any, Any]:
        """float32[classes]: the score of every class."""


@dataclass(frozen=True, slots=True)
class Listen:
    """The addresses that a server listens on."""

    host: str
    grpc_port: int
    rest_port: int


@dataclass(frozen=True, slots=True)
class ContainerImage:
    """A published image of a third-party server, as pure data: what `--launcher docker` runs.

    Inside, the server listens on GRPC_PORT and REST_PORT and finds the version folders in
    `base_path`. `architectures` are those that the image is published for, in Docker's names.
    `drains` means that it finishes its requests on SIGTERM.
    """

    name: str
    base_path: str
    architectures: tuple[str, ...]
    drains: bool = False


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """A third-party server, as pure data: what `--launcher native` or `docker` runs.

    `executable` is looked up on PATH, or in the `image`; `env` is added to the environment. `files`
    are texts by path: the launcher writes them into a folder of the server's state before the
    start, and replaces each `{files}` in `argv` and in the values of `env` with that folder's path.
    `listens_everywhere` means that the server cannot be bound to a host: it listens on every
    address of the machine, or of the container. One that does not `follow_versions` keeps serving
    those that it was started with. `only_on_request`: `--launcher auto` never chooses it.
    `longest_folder` is how many bytes the path of its folder may have, for one that puts sockets
    there (unix(7): 107 bytes in all); None if that does not matter.
    """

    launcher: str
    executable: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    install_hint: str
    files: Mapping[str, str] = field(default_factory=dict)
    listens_everywhere: bool = False
    image: ContainerImage | None = None
    follows_versions: bool = True
    only_on_request: bool = False
    longest_folder: int | None = None


_EVERY_BACKEND = (
    *("threads", "processes", "allow_unsafe_ops", "on_drift"),
    *("ladder", "ladder_policy"),
)
"""Fields of LoadOptions that every backend takes; one without unsafe operations allows them all."""


class Backend(ABC):
    """A runtime: exports a model to its own files and loads them as a Runner.

    The class itself must be cheap to import: the runtime is imported inside the methods.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for `mlserve plugins`."""
    install_hint: ClassVar[str]
    """The command that installs the packages imported by the methods."""
    requires: ClassVar[tuple[str, ...]] = ()
    """The modules needed to load and run, checked before a server starts.

    The packages to install are listed by the extra `serve` of the backend's distribution, and
    checked too.
    """
    files: ClassVar[tuple[str, ...]] = ()
    """File names or patterns (`*.onnx`) that identify a version folder of this backend."""
    frameworks: ClassVar[tuple[str, ...]] = ("tensorflow",)
    """The values of `Model.framework` that `export` accepts."""
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32,)
    """The precisions that it exports; those beside fp32 by `export_at`."""
    own_precision: ClassVar[str] = ""
    """What it says that its exports compute in where that is not fp32: `precision.NATIVE`."""
    limits_threads: ClassVar[bool] = False
    """Whether its Runners `limit_threads`: of several processes, each may then have all threads."""
    calls_ahead: ClassVar[int] = 0
    """How many calls its Runners are given beside one for each thread.

    It pays where the runtime computes on threads of its own: an image is decoded while the calls
    before it run, and no thread of the runtime waits for the interpreter. The Runner must run no
    more calls at once than it has threads, and have the others wait.
    """
    load_options: ClassVar[tuple[str, ...]] = ()
    """The fields of LoadOptions that `load` supports beside those that every backend takes.

    `up` refuses the others.
    """

    @classmethod
    def regards(cls, load_option: str) -> bool:
        """Return whether this backend supports that field of LoadOptions."""
        return load_option in (*_EVERY_BACKEND, *cls.load_options)

    def values_here(self, load_option: str) -> Sequence[str]:
        """Return the values of that load option that this machine has, for `mlserve tune` to try.

        It asks about options of text only, such as the name of a device. The default is none.
        """
        return ()

    @classmethod
    def reads(cls, name: str) -> bool:
        """Return whether a file of that name identifies a version folder of this backend."""
        return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in cls.files)

    @classmethod
    def model_file(cls, folder: Path, *own: str) -> Path:
        """Return a version's one file: of the names in `own`, which `export` writes, or `files`.

        Raises ModelLoadFailed if the folder has none or several.
        """
        named = [folder / name for name in own if (folder / name).is_file()]
        found = named or sorted(p for p in folder.glob("*") if cls.reads(p.name) and p.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            there = f"it has several: {', '.join(file.name for file in found)}"
        else:
            there = f"it has no {either(cls.files)}" if folder.exists() else "it does not exist"
        raise ModelLoadFailed(
            f"{folder} must hold one file of a model for {cls.name}, and {there}",
            hint=f"`mlserve export --backend {cls.name}` writes such a folder",
        )

    def lacks(self, feature: Feature) -> str | None:
        """Return why its image pipelines do not have that; None if they do.

        This default is for backends whose only pipeline is version 1, or that have none.
        """
        return "its pipeline has no step for it"

    def prepare(self, framework: str) -> None:
        """Import what `export` needs for models of that framework.

        Called before a model is opened, which can be a download. Raises ImportError when it is
        absent or broken. The default does nothing, except that a backend without `export` raises
        ExportError, before anything is downloaded.
        """
        if type(self).export is Backend.export:
            raise self._only_serves()

    def export(self, model: Model, into: Path) -> Sequence[Signature]:
        """Write the runtime's own files into the empty folder `into`.

        Returns the signatures that were written. Raises ExportError, also for a kind of model that
        the backend does not take, as does the default, which is for backends that only serve.
        """
        raise self._only_serves()

    def export_at(
        self, model: Model, into: Path, quantization: Quantization
    ) -> Sequence[Signature]:
        """Write the files as `export` does, in one of the `precisions` beside fp32.

        Raises ExportError, as does the default, which is for backends that have only fp32.
        """
        raise ExportError(
            f"the backend {self.name!r} does not export in {quantization.precision}",
            hint="leave --precision out, or export with another backend: `mlserve plugins` lists "
            "them",
        )

    @abstractmethod
    def load(self, artifact: Artifact, options: LoadOptions) -> Runner:
        """Load the model in `artifact.path`.

        `artifact.manifest` may be None: the artifact need not be an mlserve export. Raises
        ModelLoadFailed when the runtime cannot read the files.
        """

    def takes_no(self, model: Model) -> ExportError:
        """Return the error for a kind of model that `export` does not take."""
        what = "models of tensors" if isinstance(model, TensorModel) else "image classifiers"
        return ExportError(
            f"the backend {self.name!r} does not export {what} of the framework "
            f"{model.framework}, such as {model.name}",
            hint="export with another backend: `mlserve plugins` lists them, and --backend selects "
            "one",
        )

    def sample(self, into: Path) -> None:
        """Write a small model of tensors into the empty folder `into`, without a manifest.

        `pytest --mlserve-backend NAME` runs the conformance suite on it. The default is for
        backends without one: the suite must then be given a model, with `--mlserve-model`.
        """
        raise NotImplementedError(f"the backend {self.name!r} has no sample model")

    def _only_serves(self) -> ExportError:
        return ExportError(
            f"the backend {self.name!r} only serves models and cannot export them",
            hint="export with another backend: `mlserve plugins` lists them, and --backend selects "
            "one",
        )

    def stages(self, artifact: Artifact, options: LoadOptions) -> ImageStages:
        """Return the steps of the image pipeline in `artifact`, which this backend exported.

        Raises ModelLoadFailed.
        """
        raise ModelLoadFailed(
            f"the backend {self.name!r} cannot show the steps of its pipeline",
            hint="compare it end to end, through its endpoint",
        )

    def external_servers(
        self, base_path: Path, model: str, versions: Sequence[int], listen: Listen
    ) -> Sequence[ServerSpec]:
        """Return third-party servers that can serve `base_path` (`<base_path>/<version>/`).

        `versions` are the versions to serve; empty means the latest, followed as it changes.
        """
        return ()
