"""MLflow's tracking server over its REST API, and the artifacts that it passes on itself.

MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, are sent to it, as
mlflow sends them.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx

from mlserve.errors import ExportError, NotFound, bounded
from mlserve.remote.address import Address, safe_name
from mlserve.remote.http import (
    answered,
    opened_client,
    receive,
    require_success,
    transport_reason,
)
from mlserve.remote.mlflow_store import Tracking, text_in
from mlserve.remote.upstream import Found, Partial, downloading, unreachable
from mlserve.sources import Progress

_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_DEEPEST = 32
_CHECK = "check the spelling, and MLFLOW_TRACKING_URI"


class RestStore(Tracking):
    """The server at `uri`; `address` is what the user asked for, and stands in messages.

    It has one client until it is closed, and asks for nothing about models and runs twice.
    """

    def __init__(self, uri: str, address: Address) -> None:
        self._uri = uri.rstrip("/")
        self._address = address
        self._headers = _credentials()
        self._opened = ExitStack()
        server = Address(urlsplit(self._uri).scheme, self._uri)
        self._client = self._opened.enter_context(opened_client(server, self._headers))
        self._known: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        self._opened.close()

    def location_of_version(self, name: str, version: str) -> str:
        found = self._get("/model-versions/get-download-uri", {"name": name, "version": version})
        return self._said(found, "artifact_uri")

    def version_of_alias(self, name: str, alias: str) -> str:
        found = self._get("/registered-models/alias", {"name": name, "alias": alias})
        return self._said(found, "model_version", "version")

    def latest_version(self, name: str) -> str:
        query = {
            "filter": "name='{}'".format(name.replace("'", "''")),
            "order_by": "version_number DESC",
            "max_results": "1",
        }
        found = self._get("/model-versions/search", query).get("model_versions")
        if not found:
            raise NotFound(
                f"{self._address.shown}: the MLflow server has no version of the model {name}",
                hint=_CHECK,
            )
        return self._said(found, 0, "version")

    def location_of_model(self, model_id: str) -> str:
        found = self._get(f"/logged-models/{quote(model_id, safe='')}", {})
        return self._said(found, "model", "info", "artifact_uri")

    def location_of_run(self, run: str) -> str:
        return self._said(self._of_run(run), "run", "info", "artifact_uri")

    def model_of_run(self, run: str, name: str) -> str | None:
        outputs = (self._of_run(run).get("run") or {}).get("outputs") or {}
        for output in outputs.get("model_outputs") or ():
            model = self._said(output, "model_id")
            found = self._get(f"/logged-models/{quote(model, safe='')}", {})
            if ((found.get("model") or {}).get("info") or {}).get("name") == name:
                return model
        return None

    def fetch(
        self,
        location: str,
        known: str | None,
        into: Partial,
        progress: Progress,
        *,
        is_fixed: bool,
    ) -> Found | None:
        """Fetch what lies at an `mlflow-artifacts:/` location through the server.

        Its listings tell no versions. So `is_fixed` says whether the location always has the same
        content, as that of a registered version has; anything else is fetched each time.
        """
        revision = f"location {location}" if is_fixed else None
        if revision is not None and revision == known:
            return None
        root = urlsplit(location).path.strip("/")
        name = safe_name(root.rpartition("/")[2], self._address.shown)
        into.begin(revision)
        into.clear_content()
        files = list(self._files(root))
        if not files:
            self._receive(root, name, into, progress)  # it is a file, or the server says 404
        for path in files:
            inside = safe_name(path, self._address.shown)
            self._receive(f"{root}/{path}", f"{name}/{inside}", into, progress)
        return Found(f"mlflow-artifacts:/{root}", revision)

    def _of_run(self, run: str) -> dict[str, Any]:
        return self._get("/runs/get", {"run_id": run})

    def _said(self, found: Any, *keys: str | int) -> str:
        return text_in(found, *keys, owner=f"{self._address.shown}: the MLflow server's answer")

    def _files(self, root: str, inside: str = "", depth: int = 0) -> Iterator[str]:
        if depth > _DEEPEST:
            raise ExportError(f"{self._address.shown} has more than {_DEEPEST} folders in a row")
        found = self._json(_ARTIFACTS, {"path": f"{root}/{inside}" if inside else root})
        for item in found.get("files") or ():
            name = safe_name(str(item["path"]), self._address.shown)
            path = f"{inside}/{name}" if inside else name
            if item.get("is_dir"):
                yield from self._files(root, path, depth + 1)
            else:
                yield path

    def _receive(self, path: str, name: str, into: Partial, progress: Progress) -> None:
        with self._asked(f"{_ARTIFACTS}/{quote(path)}", {}) as response:
            receive(response, into.part_of(name), 0, downloading(name), progress)

    def _get(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        question = f"{path}?{urlencode(query)}"
        if question not in self._known:
            self._known[question] = self._json(_API + path, query)
        return self._known[question]

    def _json(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        with self._asked(path, query) as response:
            try:
                response.read()
                found: dict[str, Any] = response.json()
                return dict(found)
            except (ValueError, TypeError) as error:
                raise ExportError(
                    f"{self._address.shown}: {Address('', self._uri).shown} does not answer as an "
                    f"MLflow server: {bounded(response.text, 100)!r}",
                    hint="check MLFLOW_TRACKING_URI",
                ) from error

    @contextmanager
    def _asked(self, path: str, query: Mapping[str, str]) -> Iterator[httpx.Response]:
        """Yield the answer to a GET of the server's API, if it is one of success."""
        target = f"{self._uri}{path}" + (f"?{urlencode(query)}" if query else "")
        address = Address(urlsplit(self._uri).scheme, target)
        try:
            with answered(self._client, address, self._headers) as response:
                if response.status_code == httpx.codes.NOT_FOUND:
                    raise self._absent(response)
                require_success(response, address)
                yield response
        except httpx.TransportError as error:
            server = Address(address.scheme, self._uri).shown
            reason = transport_reason(error)
            raise unreachable(self._address, f"the MLflow server {server}: {reason}") from error

    def _absent(self, response: httpx.Response) -> NotFound:
        response.read()
        try:
            said = str(response.json()["message"])
        except (ValueError, KeyError, TypeError):
            said = "HTTP 404"
        return NotFound(
            f"{self._address.shown}: the MLflow server says: {bounded(said, 200)}",
            hint=_CHECK,
        )


def _credentials() -> dict[str, str]:
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    user, password = (
        os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD")
    )
    if user and password:
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}
    return {"Authorization": f"Bearer {token}"} if token else {}
