"""The echo backend's Runner: numpy and nothing else."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from mlserve_echo import LABELS, EchoConfig, signatures

from mlserve.backend import Batching
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, NotAnImage
from mlserve.images import tiny_png
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors

SAYS = re.compile(rb" says (\w+) ([0-9.]+)")
"""An image may say itself which label it gets, and which score."""
Array = np.ndarray[Any, Any]
WARM_UP = frozenset((b"", tiny_png()))
"""The images that a server warms a model up with: no test has to wait for their delay."""


class EchoRunner:
    """Runs the signatures that `mlserve_echo` declares; `close` interrupts what waits."""

    def __init__(self, config: EchoConfig) -> None:
        self.signatures: Mapping[str, Signature] = {item.name: item for item in signatures(config)}
        self._config = config
        self._labels = _labels(config)
        self._closed = Event()

    @property
    def batching(self) -> Batching | None:
        most = self._config.together
        return Batching(most, at_once=1) if most else None

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        self._note(signature)
        offset = np.float32(self._config.offset)
        if signature.startswith("identity_"):
            return {"y": inputs["x"]}
        if signature == "two":
            a, b = inputs["a"], inputs["b"]
            return {"sum": a + b + offset, "product": a * b}
        if signature == "lenient":
            return {"sum": inputs["a"] + inputs.get("b", np.float32(100)) + offset}
        if signature == "slow":
            self._wait(float(inputs["seconds"].max(initial=0)))
            return {"done": inputs["seconds"]}
        if signature == "crash":
            raise RuntimeError("a secret of the server")
        if signature == "fragile":
            return {"sum": _require_sound(inputs["a"]) + offset}
        return self._answer(signature, inputs["image"])

    def close(self) -> None:
        self._closed.set()
        self._note("close")

    def _wait(self, seconds: float) -> None:
        """Wait so long, or until the model is closed or released."""
        released = self._config.released
        if released is None:
            self._closed.wait(seconds)
            return
        until = time.monotonic() + seconds
        while time.monotonic() < until and not Path(released).exists():
            if self._closed.wait(0.02):
                return

    def _answer(self, signature: str, images: Array) -> dict[str, Array]:
        if not WARM_UP.issuperset(images):
            self._closed.wait(self._config.delay)
        burnt = time.thread_time() + self._config.burn
        while time.thread_time() < burnt:
            pass
        for index, image in enumerate(images):
            if image.startswith(b"deadly"):
                _end_process(leaves_a_fork=image.startswith(b"deadly fork"))
            if image.startswith(b"odd"):
                raise OddError
            if image.startswith(b"bad"):
                raise NotAnImage(f"image {index} of {len(images)} is not a JPEG or PNG file")
        if self._config.fail_run:
            raise InferenceFailed(self._config.fail_run)
        if signature == "serving_default":
            return {"output_0": np.tile(self._labels[:1], len(images))}
        classes = self._config.classes
        count = classes if signature == "ranking" else min(self._config.k, classes)
        scores = np.exp2(-1.0 - np.arange(count)).astype(np.float32)
        found, scored = (np.tile(row, (len(images), 1)) for row in (self._labels[:count], scores))
        _obey(images, found, scored)
        return {
            "labels": found,
            "scores": scored,
            "indices": np.tile(np.arange(count, dtype=np.int32), (len(images), 1)),
        }

    def _note(self, what: str) -> None:
        if self._config.journal:
            with Path(self._config.journal).open("a") as journal:
                journal.write(what + "\n")


class OddError(NotAnImage):
    """What a plugin may raise: an error that no pickle can hold."""

    def __init__(self) -> None:
        super().__init__("this image is odd", hint="send another one")
        self.lock = self.details["lock"] = Lock()


def _end_process(*, leaves_a_fork: bool) -> None:
    """Die as of a crash; a fork of the process may live on for a while."""
    if leaves_a_fork and os.fork() == 0:
        signal.alarm(20)
        signal.pause()
    os.kill(os.getpid(), signal.SIGKILL)


class Panic(BaseException):
    """What a panic in a runtime written in Rust becomes: no Exception."""


def _require_sound(values: Array) -> Array:
    """The values. A negative one makes the whole run fail; one below -100 makes it panic."""
    if (values < -100).any():
        raise Panic("the runtime has panicked")
    if (values < 0).any():
        raise InferenceFailed("out of memory")
    return values


def _obey(images: Array, labels: Array, scores: Array) -> None:
    """Put in the best label and score of each image that says them itself."""
    for row, said in enumerate(map(SAYS.search, images)):
        if said is not None:
            labels[row, 0], scores[row, 0] = said[1], float(said[2])
            scores[row, 1:] *= float(said[2]) / 2


def _labels(config: EchoConfig) -> Array:
    """Return the label of each class (object[C], bytes)."""
    unnamed = map("class {}".format, range(len(LABELS), config.classes))
    return np.array([label.encode() for label in (config.label, *LABELS[1:], *unnamed)], object)
