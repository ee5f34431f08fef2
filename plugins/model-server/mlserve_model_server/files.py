"""Convert the files named by tensorflow_model_server's flags to settings of mlserve's server."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from mlserve.errors import UsageError
from mlserve.settings import ServerSettings
from mlserve.wire.proto.server_files_pb2 import (
    BatchingParameters,
    MonitoringConfig,
    SSLConfig,
)
from mlserve_model_server.config import read_text

_log = logging.getLogger(__name__)

METRICS_PATH = "/monitoring/prometheus/metrics"
"""TensorFlow Serving's default path for metrics."""
_LARGEST_BATCH, _DELAY_MICROS = 1000, 0
"""TensorFlow Serving's defaults for missing parameters."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests are batched. If `max_queue` or `threads` is None, the server chooses."""

    max_size: int = _LARGEST_BATCH
    delay: float = _DELAY_MICROS / 1e6
    max_queue: int | None = None
    threads: int | None = None

    def settings(self, settings: ServerSettings) -> ServerSettings:
        """Return these settings with batching."""
        return replace(
            settings,
            max_batch_size=self.max_size,
            max_batch_delay=self.delay,
            max_queue=settings.max_queue if self.max_queue is None else self.max_queue,
        )


def read_batching(path: Path) -> Batching:
    """Read a batching parameters file. Raises UsageError."""
    given = read_text(path, BatchingParameters)
    size = given.max_batch_size.value if given.HasField("max_batch_size") else _LARGEST_BATCH
    delay = given.batch_timeout_micros.value if given.HasField("batch_timeout_micros") else 0
    queue = given.max_enqueued_batches.value * size if given.max_enqueued_batches.value else None
    threads = given.num_batch_threads.value if given.HasField("num_batch_threads") else None
    for name, number, least in (
        ("max_batch_size", size, 1),
        ("batch_timeout_micros", delay, 0),
        ("num_batch_threads", threads, 1),
        ("max_enqueued_batches", queue, 1),
    ):
        if number is not None and number < least:
            raise UsageError(f"{path}: {name} must be at least {least}, not {number}")
    _check_allowed_sizes(path, list(given.allowed_batch_sizes), size)
    if given.pad_variable_length_inputs:
        _log.warning("pad_variable_length_inputs has no effect here: only equal shapes are batched")
    return Batching(size, delay / 1e6, queue, threads)


def _check_allowed_sizes(path: Path, sizes: list[int], largest: int) -> None:
    if not sizes:
        return
    if sizes != sorted(set(sizes)) or sizes[-1] != largest:
        raise UsageError(
            f"{path}: allowed_batch_sizes must ascend and end with max_batch_size, {largest}; "
            f"they are {', '.join(map(str, sizes))}"
        )
    _log.warning("allowed_batch_sizes has no effect here: batches are run as large as they are")


def read_metrics_path(path: Path) -> str | None:
    """Return the path to serve metrics at; None if the file turns them off. Raises UsageError."""
    prometheus = read_text(path, MonitoringConfig).prometheus_config
    if not prometheus.enable:
        return None
    given: str = prometheus.path or METRICS_PATH
    return given


def read_tls(path: Path, folder: Path) -> dict[str, Path]:
    """Return the TLS settings in the file, writing its keys into `folder`. Raises UsageError.

    The file contains the text of the PEM files themselves.
    """
    given = read_text(path, SSLConfig)
    if not given.server_key or not given.server_cert:
        raise UsageError(f"{path} must give server_key and server_cert, the text of PEM files")
    if given.client_verify and not given.custom_ca:
        raise UsageError(f"{path} has client_verify, but no custom_ca to verify clients by")
    texts = {"tls_key": given.server_key, "tls_cert": given.server_cert}
    if given.client_verify:
        texts["tls_client_ca"] = given.custom_ca
    for name, text in texts.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text)
    return {name: folder / name for name in texts}
