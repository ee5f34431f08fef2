"""Files of models on the Hugging Face hub, through huggingface_hub.

HF_TOKEN or `hf auth login` gives access to models that are not public; HF_ENDPOINT names another
hub.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mlserve.errors import (
    AccessDenied,
    ExportError,
    MlserveError,
    NotFound,
    UsageError,
    first_of,
    reason_of,
)
from mlserve.remote.address import Address, safe_name
from mlserve.remote.upstream import (
    CONNECT_SECONDS,
    Found,
    Partial,
    Upstream,
    absent_library,
    downloading,
    is_of_disk,
    is_outage,
    unreachable,
)
from mlserve.sources import Progress

_PARTS = 2
_REFUSED = {401, 403}
_LOWEST_FAULT = 400


class HubFiles(Upstream):
    """`hf://org/name[@revision][/path]`: a file, a folder, or all that a model's repository has."""

    def __init__(self, address: Address) -> None:
        self._address = address
        parts = address.text.removeprefix("hf://").strip("/").split("/")
        if len(parts) < _PARTS or not all(parts):
            raise UsageError(
                f"{address.shown} is not a file of the hub",
                hint="write hf://ORGANIZATION/NAME/FILE, or hf://ORGANIZATION/NAME@REVISION/FILE",
            )
        name, _, revision = parts[1].partition("@")
        self._repository = f"{parts[0]}/{name}"
        self._revision = unquote(revision) or None
        self._path = safe_name("/".join(parts[_PARTS:]) or name, address.shown)
        self._is_all = len(parts) == _PARTS

    def fetch(self, known: str | None, into: Partial, progress: Progress) -> Found | None:
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when it is imported
        try:
            import huggingface_hub  # noqa: F401
        except ModuleNotFoundError as error:
            raise absent_library(self._address, "huggingface_hub", "hf") from error
        try:
            return self._fetch(known, into, progress)
        except Exception as error:
            if is_of_disk(error):
                raise
            raise self._error(error) from error

    def _fetch(self, known: str | None, into: Partial, progress: Progress) -> Found | None:
        from huggingface_hub import HfApi

        info = HfApi().model_info(
            self._repository, revision=self._revision, timeout=CONNECT_SECONDS
        )
        commit = str(info.sha)
        revision = f"commit {commit}"
        if revision == known:
            return None
        names = self._names([item.rfilename for item in info.siblings or ()], commit)
        into.begin(revision)
        aside = into.folder / "hub"
        for name in names:
            self._receive(name, commit, aside, progress)
        shutil.rmtree(aside / ".cache", ignore_errors=True)  # what it notes for the next call
        whole = aside if self._is_all else aside / self._path
        into.clear_content()
        whole.rename(into.content / Path(self._path).name)
        inside = "" if self._is_all else f"/{self._path}"
        return Found(f"hf://{self._repository}@{commit}{inside}", revision)

    def _names(self, there: list[str], commit: str) -> list[str]:
        """Return those of the repository's files that the address means. Raises NotFound."""
        below = [
            name
            for name in there
            if self._is_all or name == self._path or name.startswith(f"{self._path}/")
        ]
        if not below:
            raise NotFound(
                f"{self._address.shown}: commit {commit[:12]} of {self._repository} has no "
                f"{self._path}",
                hint=f"it has {first_of(sorted(there), _LISTED) or 'no files'}",
            )
        return [safe_name(name, self._address.shown) for name in below]

    def _receive(self, name: str, commit: str, aside: Path, progress: Progress) -> None:
        from huggingface_hub import hf_hub_download

        hf_hub_download(
            self._repository,
            name,
            revision=commit,
            local_dir=aside,
            tqdm_class=_reporting(downloading(name), progress),
        )

    def _error(self, error: Exception) -> MlserveError:
        from huggingface_hub import errors

        if isinstance(error, MlserveError):
            return error
        for kind, make, what, hint in (
            (errors.GatedRepoError, AccessDenied, "its owner gives access on request", _ASK),
            (errors.RepositoryNotFoundError, NotFound, "the hub shows no such model", _SPELLING),
            (errors.RevisionNotFoundError, NotFound, "it has no such revision", _REVISION),
            (errors.HFValidationError, UsageError, reason_of(error), "check the spelling"),
        ):
            if isinstance(error, kind):
                return make(f"{self._address.shown} cannot be fetched: {what}", hint=hint)
        status = getattr(getattr(error, "response", None), "status_code", 0) or 0
        if status >= _LOWEST_FAULT and not is_outage(status):
            refused: type[MlserveError] = AccessDenied if status in _REFUSED else ExportError
            return refused(
                f"{self._address.shown} cannot be fetched: HTTP {status}", hint=_SPELLING
            )
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
        return unreachable(self._address, reason_of(cause or error))


_ASK = "ask for it on the model's page, and set HF_TOKEN"
_SPELLING = "check the spelling; for a private one, set HF_TOKEN"
_REVISION = "give a branch, a tag or a commit after the @"
_LISTED = 8


def _reporting(what: str, progress: Progress) -> Any:
    """Return a class that huggingface_hub takes for a tqdm bar, and that reports to `progress`."""
    from huggingface_hub.utils import tqdm

    class Reporting(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})
            self._done = int(kwargs.get("initial") or 0)
            self._total = kwargs.get("total")

        def update(self, n: float | None = 1) -> None:
            self._done += int(n or 0)
            progress(what, self._done, self._total)

    return Reporting
