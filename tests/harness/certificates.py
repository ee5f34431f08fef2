"""One reading of the public authorities' certificates for a whole run of the tests."""

from __future__ import annotations

import os
import ssl
from functools import cache
from typing import Any

import certifi

_create = ssl.create_default_context


def read_once() -> None:
    """Make `httpx` share the context that it makes if it is told nothing of certificates.

    It makes one for each client, also for plain HTTP, and so for each `httpx.get`, of which a run
    has thousands, many in loops. To read the certificates takes 30 ms of a CPU.
    """
    usual = {os.environ.get("SSL_CERT_FILE") or certifi.where()}

    def shared(*args: Any, **options: Any) -> ssl.SSLContext:
        if not args and options.keys() == {"cafile"} and options["cafile"] in usual:
            return _of_file(options["cafile"])
        return _create(*args, **options)

    ssl.create_default_context = shared


@cache
def _of_file(path: str) -> ssl.SSLContext:
    return _create(cafile=path)
