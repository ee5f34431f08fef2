"""The handler that TorchServe runs for a model of mlserve.

`mlserve up --launcher native` copies this file beside the model's settings, and TorchServe's worker
imports it, in TorchServe's own Python environment. It loads the model and answers as mlserve's own
server does: the REST requests of the Open Inference Protocol, and image files.

TorchServe wants one class in the file. mlserve is imported once that is loaded, so that a missing
package is the reason why the model does not load, and not a worker that starts again for ever.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlserve.server.oip.direct import DirectModel

_FAILED = 500
_TOO_LARGE = 413
_log = logging.getLogger(__name__)


class ModelHandler:
    """One version of a model on one worker: `initialize` is called once, then only `handle`."""

    def initialize(self, context: Any) -> None:
        """Load the model. A failure is kept, as the answer to every request."""
        properties = context.system_properties
        self._settings = json.loads((Path(properties["model_dir"]) / "model.json").read_text())
        self._failure = ""
        try:
            self._model = _loaded(self._settings, properties.get("gpu_id"))
        except ImportError as error:
            self._failure = f"{error}; install mlserve-torch[serve] for {sys.executable}"
        except Exception as error:  # noqa: BLE001 - TorchServe would start the worker again
            _log.exception("the model does not load")
            self._failure = str(error)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer the requests of a batch, which holds one unless TorchServe is told otherwise."""
        return [self._answer(row, context, index) for index, row in enumerate(data)]

    def _answer(self, row: Mapping[str, Any], context: Any, index: int) -> bytes:
        from ts.utils.util import PredictionException

        if self._failure:
            version, model = self._settings["version"], self._settings["model"]
            reason = f"version {version} of {model} does not load: {self._failure}"
            raise PredictionException(reason, _FAILED)
        from mlserve.errors import MlserveError
        from mlserve.server.errors import error_text
        from mlserve.wire.headers import JSON_LENGTH
        from mlserve.wire.status import http_status

        headers = _rest_headers(context.get_all_request_header(index))
        try:
            head, tail = self._answer_to(row, headers or _grpc_headers(row))
        except MlserveError as error:
            status = http_status(error)
            # TorchServe turns this one into gRPC's RESOURCE_EXHAUSTED, which says "try again".
            is_for_grpc = not headers and status == _TOO_LARGE
            raise PredictionException(error_text(error), 400 if is_for_grpc else status) from error
        if tail is None:
            context.set_response_content_type(index, "application/json")
            return head
        if headers:
            context.set_response_header(index, JSON_LENGTH, str(len(head)))
            return head + tail
        return b"%d\n%b%b" % (len(head), head, tail)  # gRPC answers have no headers

    def _answer_to(
        self, row: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[bytes, bytes | None]:
        from mlserve.wire.headers import ASKED, SIGNATURE, own_header

        asked = own_header(headers, ASKED)
        if asked == "metadata":
            versions = tuple(map(str, self._settings["versions"]))
            return self._model.metadata(versions, own_header(headers, SIGNATURE)), None
        if asked == "ready":
            return b'{"ready": true}', None
        return self._model.infer(bytes(row.get("body") or row.get("data") or b""), headers)


def _loaded(settings: Mapping[str, Any], gpu: int | None) -> DirectModel:
    from mlserve.load_options import LoadOptions
    from mlserve.server.oip.direct import DirectModel
    from mlserve.settings import DEFAULT_SETTINGS

    options = LoadOptions() if gpu is None else LoadOptions(device=f"cuda:{gpu}")
    base_path = Path(settings["base_path"])
    place = settings["backend"], settings["model"], base_path, settings["version"]
    return DirectModel(*place, options, DEFAULT_SETTINGS)


def _rest_headers(said: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of a REST request, in lower case; none for a request over gRPC."""
    return {key.lower(): value for key, value in said.items() if isinstance(value, str)}


def _grpc_headers(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what a request over gRPC has beside its body, in the place of headers."""
    return {key: bytes(row[key]).decode() for key in row.keys() - {"body", "data"}}
