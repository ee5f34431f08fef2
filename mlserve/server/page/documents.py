"""The documents as a browser gets them: one file each, that may load nothing from anywhere.

A document names its style and its scripts as any page on a disk does, and in a comment a part that
other documents have, too. They are put in their places when somebody first asks for it: a server
that nobody looks at reads nothing. The policy that goes with it (Content-Security-Policy,
https://www.w3.org/TR/CSP3/) allows just these, by their digests, and requests to the server that
the page came from.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

_HERE = Path(__file__).parent
_PARTS = re.compile(
    r'<link rel="stylesheet" href="(?P<style>\w+\.css)">'
    r'|<script src="(?P<script>\w+\.js)"></script>'
    r"|<!-- (?P<shared>\w+\.html) -->\n"
)
_ALLOWED = (
    "default-src 'none'",
    "connect-src 'self'",
    "img-src blob: data:",  # the image that was given, and the icon
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
_ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-cache",  # the next version of mlserve has another page
}


@dataclass(frozen=True, slots=True)
class Document:
    """A page: its HTML in UTF-8, and the headers that go with it."""

    body: bytes
    headers: dict[str, str]


@cache
def document(name: str) -> Document:
    """Return the document of that file name, such as `page.html`."""
    digests: dict[str, list[str]] = {"style": [], "script": []}

    def put_in(part: re.Match[str]) -> str:
        kind = part.lastgroup or ""
        text = _text_of(part[kind])
        if kind not in digests:
            return text
        digests[kind].append(_digest(text))
        return f"<{kind}>{text}</{kind}>"

    html = _PARTS.sub(put_in, _text_of(name))
    own = (f"{kind}-src {' '.join(found)}" for kind, found in digests.items())
    return Document(
        html.encode(), {"content-security-policy": "; ".join((*_ALLOWED, *own)), **_ALWAYS}
    )


def _text_of(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}'"
