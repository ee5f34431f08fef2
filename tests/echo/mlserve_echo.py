"""The backend `echo`: a real, installable backend without a model, for tests.

A version folder holds `echo.json`, an object of these keys, none of which must be there:

    label        the answer to every image (default "sorrel")
    classes      how many classes `ranking` gives (default 5)
    k            how many classes `top_k` gives (default 5); never more than there are
    is_older     true: there is no signature `ranking`, as in exports of earlier versions
    delay        seconds that each image request takes, but for the warm-up (default 0)
    burn         seconds of CPU time that each image request takes (default 0)
    load_delay   seconds that loading takes (default 0)
    needs        a module that loading imports
    fail_load    a message: loading raises ModelLoadFailed with it
    fail_run     a message: an image request raises InferenceFailed with it
    pixel        the value of every decoded pixel (default 128)
    score        the first score of the pipeline's stages (default 0.5)
    fail_stages  a message: the stages end their process with it
    together     how many requests it likes to run as one (default 0: it does not say)
    offset       what is added to the sum of `two`, `lenient` and `fragile` (default 0)
    released     a path: `slow` and `load_delay` end early once there is such a file
    journal      a path: each run and the close append a line (the signature's name, "close")
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mlserve.artifact import Artifact, digest_of
from mlserve.backend import Backend, ImageStages, Runner
from mlserve.contract import RAW, Evidence, settle
from mlserve.errors import ModelLoadFailed
from mlserve.load_options import LoadOptions
from mlserve.pipeline import DEFAULT_TOP_K, Activation, ImagePipeline
from mlserve.plugins import hookimpl
from mlserve.sources import Classifier, How, ModelRequest, ModelSource, Progress
from mlserve.tensors import DType, Signature, TensorSpec

CONFIG_NAME = "echo.json"
TOP_K = 5
LABELS = ("sorrel", "zebra", "ox", "hartebeest", "impala")


@dataclass(frozen=True, slots=True)
class EchoConfig:
    """What `echo.json` holds; see the module's docstring."""

    label: str = "sorrel"
    classes: int = len(LABELS)
    k: int = TOP_K
    is_older: bool = False
    delay: float = 0.0
    burn: float = 0.0
    load_delay: float = 0.0
    needs: str | None = None
    fail_load: str | None = None
    fail_run: str | None = None
    pixel: int = 128
    score: float = 0.5
    fail_stages: str | None = None
    together: int = 0
    offset: float = 0.0
    released: str | None = None
    journal: str | None = None


def _image_signatures(config: EchoConfig) -> Iterable[Signature]:
    image = TensorSpec("image", DType.BYTES, (None,))
    yield Signature("serving_default", (image,), (TensorSpec("output_0", DType.BYTES, (None,)),))
    yield Signature("top_k", (image,), _best(min(config.k, config.classes)))
    if not config.is_older:
        yield Signature("ranking", (image,), _best(config.classes))


def _best(count: int) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("labels", DType.BYTES, (None, count)),
        TensorSpec("scores", DType.FLOAT32, (None, count)),
        TensorSpec("indices", DType.INT32, (None, count)),
    )


def signatures(config: EchoConfig = EchoConfig()) -> Iterable[Signature]:
    """Every signature of a model that is configured so."""
    yield from _image_signatures(config)
    for dtype in DType:
        x, y = TensorSpec("x", dtype, None), TensorSpec("y", dtype, None)
        yield Signature(f"identity_{dtype.label}", (x,), (y,))
    a, b, total, product, seconds, done = (
        TensorSpec(name, DType.FLOAT32, (None,))
        for name in ("a", "b", "sum", "product", "seconds", "done")
    )
    yield Signature("two", (a, b), (total, product))
    yield Signature("lenient", (a, b), (total,), frozenset({"b"}))
    yield Signature("slow", (seconds,), (done,))
    yield Signature("crash", (seconds,), (done,))
    yield Signature("fragile", (a,), (total,))


class EchoBackend(Backend):
    """Answers every image with the same label."""

    name = "echo"
    summary = "A backend without a model, for tests."
    install_hint = "pip install -e tests/echo"
    requires = ("numpy",)
    files = (CONFIG_NAME,)

    def export(self, model: Classifier, into: Path) -> Sequence[Signature]:
        config = EchoConfig(label=model.labels[0])
        (into / CONFIG_NAME).write_text(json.dumps(asdict(config)) + "\n")
        return tuple(_image_signatures(config))

    def load(self, artifact: Artifact, options: LoadOptions) -> Runner:
        from mlserve_echo_runner import EchoRunner

        config = _read(artifact.path / CONFIG_NAME)
        _delay(config)
        if config.needs:
            importlib.import_module(config.needs)
        if config.fail_load:
            raise ModelLoadFailed(config.fail_load, hint="write another echo.json")
        return EchoRunner(config)

    def stages(self, artifact: Artifact, options: LoadOptions) -> ImageStages:
        from mlserve_echo_stages import EchoStages

        config = _read(artifact.path / CONFIG_NAME)
        _delay(config)
        if config.fail_load:
            raise ModelLoadFailed(config.fail_load, hint="write another echo.json")
        return EchoStages(config)


def _delay(config: EchoConfig) -> None:
    """Take as long to load as the configuration says, or until released."""
    until = time.monotonic() + config.load_delay
    while (left := until - time.monotonic()) > 0:
        if config.released is not None and Path(config.released).exists():
            return
        time.sleep(min(left, 0.02))


def _read(path: Path) -> EchoConfig:
    try:
        return EchoConfig(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ModelLoadFailed(f"{path} cannot be read: {error}", hint="write echo.json") from error


class EchoSource(ModelSource):
    """The model `echo`, which is nothing but its labels."""

    name = "echo"
    summary = "The model `echo`: labels and no network, for tests."
    install_hint = "pip install -e tests/echo"
    models = ("echo",)

    def accepts(self, request: ModelRequest) -> bool:
        return request.model in self.models

    def open(self, request: ModelRequest, progress: Progress) -> Classifier:
        progress("echo", 1, 1)
        labels = request.given_labels() or LABELS
        size = request.input_size or 224
        contract = settle(
            request,
            len(labels),
            Evidence(Activation.IDENTITY, "its labels are all there is"),
            Evidence(RAW, "it looks at no pixel", How.ASSUMED),
        )
        low, high = contract.scale
        return Classifier(
            name=request.model,
            forward=None,
            pipeline=ImagePipeline(
                height=size,
                width=size,
                scale=(high - low) / 255,
                offset=low,
                activation=contract.activation,
                classes=len(labels),
                top_k=request.top_k or DEFAULT_TOP_K,
            ),
            labels=labels,
            source="echo",
            weights_digest=digest_of(b""),
            has_random_weights=request.is_random,
            facts=contract.facts,
        )


@hookimpl
def mlserve_backend() -> type[Backend]:
    return EchoBackend


@hookimpl
def mlserve_model_sources() -> Iterable[ModelSource]:
    return [EchoSource()]
