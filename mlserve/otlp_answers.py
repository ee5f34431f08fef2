"""What a collector answers to an export, which the SDK's exporters do not tell.

They take every answer below 400 for success and drop its content. But a collector may take a part
only, and says so in that content; and what answers may be no collector at all. The rules are those
of https://opentelemetry.io/docs/specs/otlp/.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError, Message

from mlserve.errors import shortened

_LONGEST = 64 * 1024
"""Bytes of an answer that are read: a real one has a few hundred, and no other may fill memory."""
LONGEST_REASON = 300
"""Characters that are shown of what a collector or a library says."""
_MULTIPLE_CHOICES, _BAD_REQUEST = 300, 400
_PROTOBUF, _WEB_PAGE = "application/x-protobuf", "text/html"
_CREDENTIAL_PROVIDERS = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_METRICS_CREDENTIAL_PROVIDER",
)


class Answers:
    """What came of the latest export, on the thread that sends.

    `rejected` is how many spans or points the collector did not take of an export that it has
    answered well, `said` what it says of that or of anything else. `fault` is why what answered is
    no collector; empty if it is one.
    """

    def __init__(self, kind: type[Message]) -> None:
        """`kind` is the message that answers the export."""
        self._kind = kind
        self.forget()

    def forget(self) -> None:
        """Forget the export before."""
        self.rejected = 0
        self.said = self.fault = ""

    @property
    def rejection(self) -> str:
        """What was not taken, in words, and why; empty if all was."""
        if not self.rejected:
            return ""
        return f"it rejects {self.rejected} of them" + (f": {self.said}" if self.said else "")

    def take(self, answer: Any) -> None:
        """Take the message that answered."""
        part = answer.partial_success
        count = next(
            (value for field, value in part.ListFields() if field.name != "error_message"), 0
        )
        self.rejected = max(0, count)
        self.said = shortened(part.error_message, LONGEST_REASON)

    def over_http(self, response: Any, **_: Any) -> None:
        """Take an answer over HTTP, as a hook of a session of `requests`."""
        content = _beginning(response)
        if response.status_code >= _BAD_REQUEST:
            return  # the exporter sees that
        self.fault = self._fault(response.status_code, response.headers, content)

    def _fault(self, status: int, headers: Mapping[str, str], content: bytes) -> str:
        """Take the content; return why it is not that of a collector."""
        if status >= _MULTIPLE_CHOICES:
            place = headers.get("location", "")
            return shortened(
                f"it answers {status}, go to {place or 'another place'}", LONGEST_REASON
            )
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type == _WEB_PAGE:
            return "a web page answers there, and no collector"
        if media_type == _PROTOBUF:
            try:
                self.take(self._kind.FromString(content))
            except DecodeError:
                return "what it answers is not OTLP"
        return ""


def listening_session(answers: Answers) -> Any:
    """Return a session of `requests` that tells its answers; None leaves it to the SDK.

    It does so where a plugin of the SDK brings the credentials, and a session of its own.
    """
    if any(os.environ.get(name) for name in _CREDENTIAL_PROVIDERS):
        return None
    import requests

    session = requests.Session()
    session.stream = True  # the content is read here, and not all of it
    session.hooks["response"].append(answers.over_http)
    return session


class ListeningStub:
    """A stub of one of OTLP's services that tells its answers."""

    def __init__(self, stub: Any, answers: Answers) -> None:
        self._stub = stub
        self._answers = answers

    def Export(self, **call: Any) -> Any:  # noqa: N802  the name in the protocol
        """Send, as the other one does."""
        answer = self._stub.Export(**call)
        self._answers.take(answer)
        return answer


def _beginning(response: Any) -> bytes:
    """Return the beginning of the content; none of what breaks off: its status has come."""
    try:
        return bytes(response.raw.read(_LONGEST, decode_content=True))
    except Exception:  # noqa: BLE001 - whatever a library finds in what somebody sends
        return b""
    finally:
        response.close()  # a connection whose answer was read to its end is kept all the same
