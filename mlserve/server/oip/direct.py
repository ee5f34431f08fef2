"""One version of a model, asked by function calls: no port, no queue, no batches.

For a server of another kind that runs the model in a process of its own, such as a worker of
TorchServe. Requests and answers are the REST bodies of the Open Inference Protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve import plugins
from mlserve.backend import judges_shapes
from mlserve.deadline import Deadline
from mlserve.load_options import LoadOptions
from mlserve.server.errors import as_known_error
from mlserve.server.listen.http import answer_headers, contract_headers
from mlserve.server.message import Headers
from mlserve.server.models.loading import open_version
from mlserve.server.models.versions import ModelSpec
from mlserve.server.oip.json_body import read_request, write_response
from mlserve.server.oip.metadata import describe, platform_of
from mlserve.server.oip.request import write_outputs
from mlserve.server.tensors import check_shapes
from mlserve.settings import ServerSettings
from mlserve.store import LATEST_VERSION
from mlserve.wire.headers import HANDLER_HEADERS, SERVED_BY, over_http

if TYPE_CHECKING:
    from mlserve.backend import Tensors
    from mlserve.server.oip.request import InferRequest
    from mlserve.tensors import Signature


class DirectModel:
    """A loaded and warmed up version, with the limits that requests must keep.

    A request without a deadline has `settings.default_timeout` seconds.
    """

    def __init__(
        self,
        backend: str,
        model: str,
        base_path: Path,
        version: int,
        options: LoadOptions,
        settings: ServerSettings,
    ) -> None:
        """Load the version. Raises MlserveError, as the server does."""
        source = ModelSpec(
            *(plugins.backend(backend), model, base_path, LATEST_VERSION, options),
            poll_seconds=0,
            signed_by=settings.require_signature,
        )
        self._platform = platform_of(backend)
        self._settings = settings
        self._loaded = open_version(source, version)

    def metadata(self, versions: tuple[str, ...], signature: str) -> bytes:
        """Return the JSON of `GET /v2/models/...`; the empty signature is the default one.

        The headers of that answer are the parameter `HANDLER_HEADERS`. Raises NotFound.
        """
        described = describe(self._loaded, versions, self._platform, signature)
        headers = {
            **answer_headers(self._loaded.served),
            **contract_headers(described.contract),
            over_http(SERVED_BY): self._loaded.standing.served_by,
        }
        return json.dumps(described.to_json({HANDLER_HEADERS: headers})).encode()

    def infer(self, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, bytes | None]:
        """Return the answer to the body of `POST /v2/models/.../infer`, or to an image file.

        It is the JSON, and the bytes of binary outputs that go behind it. The keys of `headers` are
        in lower case. Raises MlserveError, for an unexpected failure as well.
        """
        try:
            request = read_request(body, Headers.of(headers), self._settings)
            deadline = request.sooner(Deadline.after(self._settings.default_timeout))
            signature, outputs = self._run(request, deadline)
            answers = write_outputs(signature, outputs, request.outputs)
            return write_response(self._loaded.served, request, answers)
        except Exception as error:  # noqa: BLE001 - a model's code may raise anything
            raise as_known_error(error) from None

    def _run(self, request: InferRequest, deadline: Deadline) -> tuple[Signature, Tensors]:
        runner = self._loaded.runner
        signature, inputs = request.decode(runner.signatures, self._settings)
        if not judges_shapes(runner):
            check_shapes(signature, inputs)
        deadline.require("reading the request")
        return signature, runner.run(signature.name, inputs, deadline)
