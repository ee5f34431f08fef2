"""Whether the place that the default model comes from can be reached."""

from __future__ import annotations

from collections.abc import Iterator

import httpx  # noqa: TID253

from mlserve.client.background import run_within
from mlserve.deadline import Deadline
from mlserve.doctor.finding import Finding, Status
from mlserve.errors import DeadlineExceeded

AREA = "network"
TFHUB = "https://tfhub.dev/"
_TIMEOUT = 2.0
_FIX = (
    "set HTTPS_PROXY if there is a proxy; without TF-Hub, export a model whose weights come from a "
    "package (--model efficientnet_lite0) or your own (--weights FILE)"
)


def look(url: str = TFHUB, timeout: float = _TIMEOUT) -> Iterator[Finding]:
    """The finding on TF-Hub: within `timeout` seconds, whatever the network does."""
    try:
        run_within(Deadline.after(timeout), "reaching TF-Hub", lambda: _ask(url, timeout))
    except DeadlineExceeded:
        text = f"{url} did not answer within {timeout:g} s"
        yield Finding(AREA, "TF-Hub", Status.WARN, text, _FIX)
    except httpx.HTTPError as error:
        text = f"{url} cannot be reached: {str(error) or type(error).__name__}"
        yield Finding(AREA, "TF-Hub", Status.WARN, text, _FIX)
    else:
        yield Finding(AREA, "TF-Hub", Status.OK, f"{url} answers")


def _ask(url: str, timeout: float) -> int:
    """The status of the answer, which does not matter: there is one."""
    return httpx.head(url, timeout=timeout).status_code
