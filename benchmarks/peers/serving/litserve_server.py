"""The comparison's work behind LitServe: `litserve_server.py PORT WORKERS TIMEOUT` (0: its own).

A form's file is the input for binary data that LitServe's documentation shows. `fast_queue` is what
it recommends for many requests. LitServe reads the type of `request` as an object, so there is no
`from __future__ import annotations` here.
"""

import sys
from typing import Any

import litserve
import work
from fastapi import Request


class Work(litserve.LitAPI):
    """One model a worker."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.classify = work.load()

    def decode_request(self, request: Request) -> bytes:
        """Return the image of the form."""
        image: bytes = request["image"].file.read()
        return image

    def predict(self, image: bytes) -> dict[str, Any]:
        """Answer after the work."""
        return work.answer(*self.classify(image))


if __name__ == "__main__":
    port, workers, timeout = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    server = litserve.LitServer(
        Work(),
        accelerator="cpu",
        workers_per_device=workers,
        fast_queue=True,
        **({"timeout": timeout} if timeout else {}),
    )
    server.run(
        host="127.0.0.1",
        port=port,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
