"""The options of how a model is loaded, such as `--threads`: each defined once.

As with `mlserve.settings`, a field is the option of `mlserve up`, the flag of the server process,
the argument of a container, and the entry in the record of a running server.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from mlserve.errors import UsageError
from mlserve.options import HelpPanel, Options, option
from mlserve.system import usable_cpus


class OnDrift(StrEnum):
    """What becomes of a version that does not give the answers of its certificate."""

    REFUSE = "refuse"
    SERVE = "serve"


class LadderPolicy(StrEnum):
    """What becomes of an answer that is uncertain when there is no time for the next rung."""

    ANSWER = "answer"
    REFUSE = "refuse"


class JpegChoice(StrEnum):
    """Where JPEGs are decoded: on the CPU, bit for bit as everywhere, or on the GPU."""

    ACCURATE = "accurate"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class LoadOptions(Options):
    """How to load a model; None leaves the choice to the backend.

    A new option is one field here: `mlserve up`, the server process, containers and the record of a
    running server take it from this class. A backend that supports it lists it in `load_options`.
    `threads` None means the CPUs of the cgroup. `instances` are sessions that run at the same time
    and share the threads. `processes` run the calls and divide the threads among them
    (`mlserve.server.processes`). `allow_unsafe_ops` loads models that can do more than compute
    (`mlserve.unsafe_ops`); `allow_pickle` those whose file can run code when it is read, and
    `trusted_types` names types that a file may hold without it, separated by commas. Raises
    UsageError for a number below 1.
    """

    threads: int | None = field(
        default=None,
        metadata=option(
            HelpPanel.MODEL,
            "CPU threads that run the model.",
            unit="n",
            least=1,
            chosen="one for each CPU that may be used",
            is_tuned=True,
        ),
    )
    provider: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.MODEL,
            "What ONNX Runtime runs the model on: auto, cpu, cuda, ...",
            unit="name",
            chosen="auto",
            is_tuned=True,
        ),
    )
    instances: int | None = field(
        default=None,
        metadata=option(
            HelpPanel.MODEL,
            "Instances of the model that run at the same time and share the threads.",
            unit="n",
            least=1,
            chosen="1 on a GPU; on a CPU, calls share the threads by load",
            is_tuned=True,
        ),
    )
    processes: int | None = field(
        default=None,
        metadata=option(
            HelpPanel.MODEL,
            "Processes that run the model, beside the one that has the ports. 1: that one itself "
            "runs it.",
            unit="n",
            least=1,
            chosen="one for each CPU where the model is fast for their number, else 1",
            is_tuned=True,
        ),
    )
    allow_unsafe_ops: bool = field(
        default=False,
        metadata=option(
            HelpPanel.ACCESS,
            "Serve SavedModels whose graph can read and write files, or run Python: only if you "
            "trust whoever made them.",
        ),
    )
    device: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.MODEL,
            "The device that PyTorch or OpenVINO runs the model on: auto, cpu, cuda, cuda:1, "
            "GPU, ...",
            unit="name",
            chosen="auto",
            is_tuned=True,
        ),
    )
    jpeg_decoder: JpegChoice | None = field(
        default=None,
        metadata=option(
            HelpPanel.MODEL,
            "Where PyTorch has JPEGs decoded: accurate is on the CPU, with the pixels that every "
            "backend gets; gpu is faster, but its pixels differ a little.",
            chosen="accurate",
        ),
    )
    allow_pickle: bool = field(
        default=False,
        metadata=option(
            HelpPanel.ACCESS,
            "Load models from pickle and joblib files, which can run any code when they are read: "
            "only if you trust whoever made them.",
        ),
    )
    trusted_types: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.ACCESS,
            "Types that a model's file may hold, besides those that are known to be safe.",
            unit="names",
            chosen="none",
        ),
    )
    on_drift: OnDrift | None = field(
        default=None,
        metadata=option(
            HelpPanel.MODEL,
            "What to do with a version that does not give the answers of its certificate here: "
            "refuse to serve it, or serve it and say so.",
            chosen="refuse",
        ),
    )
    ladder: str | None = field(
        default=None,
        metadata=option(
            HelpPanel.MODEL,
            "Answer with the first of these precisions, or exported versions, whose label is "
            "certain: int8,fp32, or onnxruntime/MODEL@3,onnxruntime/MODEL@1.",
            unit="rungs",
            chosen="one version answers",
        ),
    )
    ladder_policy: LadderPolicy | None = field(
        default=None,
        metadata=option(
            HelpPanel.MODEL,
            "What to do on a ladder when the label is uncertain and there is no time for the next "
            "rung: refuse the request, or answer it and say so.",
            chosen="refuse",
        ),
    )
    allow_version_mismatch: bool = field(
        default=False,
        metadata=option(
            HelpPanel.MODEL,
            "Load models that another version of their library wrote: their answers may differ.",
        ),
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.ladder_policy is not None and self.ladder is None:
            raise UsageError(
                "--ladder-policy needs --ladder", hint="add for example --ladder int8,fp32"
            )

    @property
    def calls_at_once(self) -> int | None:
        """Return how many calls the server runs at once, of all its models; None for one a CPU."""
        if (self.processes or 1) == 1:
            return self.threads
        return max(self.threads or usable_cpus(), self.processes or 1)


DEFAULT_LOAD_OPTIONS = LoadOptions()
