"""mlserve's server of a model that does nothing, for `null_request.py`.

    python null_server.py FOLDER [--model m] [--threads N] [--burn SECONDS] [--record DIR]

FOLDER is the model's base path: it holds `1/`, a version folder with any file in it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlserve.artifact import Artifact
from mlserve.backend import Backend, Runner
from mlserve.deadline import Deadline
from mlserve.load_options import LoadOptions
from mlserve.server.app import ServerOptions, serve
from mlserve.server.models.versions import ModelSpec
from mlserve.server.telemetry.log import log_to_stderr
from mlserve.settings import LogFormat, ServerSettings
from mlserve.store import VersionPolicy
from mlserve.tensors import DType, Signature, TensorSpec

if TYPE_CHECKING:
    from mlserve.backend import Tensors

SIGNATURE = Signature(
    "serving_default",
    (TensorSpec("image", DType.BYTES, (None,)),),
    (TensorSpec("label", DType.BYTES, (None,)),),
)
SETTINGS = ServerSettings(max_queue=512)
"""Room for one request of each of 256 connections."""
LABEL = np.array([b"sorrel", None], dtype=object)[:1]


class NullRunner:
    """Answers every image with the same label, without looking at it.

    Each run takes `burn` seconds of CPU time, if that is not 0.
    """

    signatures: Mapping[str, Signature] = {SIGNATURE.name: SIGNATURE}

    def __init__(self, burn: float = 0.0) -> None:
        self._burn = burn

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        if self._burn:
            burnt = time.thread_time() + self._burn
            while time.thread_time() < burnt:
                pass
        return {"label": LABEL}

    def close(self) -> None:
        """Nothing is held."""


class NullBackend(Backend):
    """Loads a NullRunner, whatever the version folder holds."""

    name = "null"
    summary = "A model that does nothing."
    install_hint = ""
    files = ("*.null",)

    def __init__(self, burn: float = 0.0) -> None:
        self._burn = burn

    def load(self, artifact: Artifact, options: LoadOptions) -> Runner:
        return NullRunner(self._burn)


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="m")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--burn", type=float, default=0.0)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--record-bodies", type=float)
    options = parser.parse_args()
    log_to_stderr(LogFormat.TEXT)
    served = LoadOptions(threads=options.threads)
    place = NullBackend(options.burn), options.model, options.folder
    settings = replace(SETTINGS, record=options.record, record_bodies=options.record_bodies)
    model = ModelSpec(*place, VersionPolicy(), served, poll_seconds=0)
    server = ServerOptions((model,), "127.0.0.1", 0, 0, options.threads, settings)
    sys.exit(int(asyncio.run(serve(server))))


if __name__ == "__main__":
    main()
