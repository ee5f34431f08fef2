"""`work` behind LitServe: `litserve_server.py PORT TIMEOUT`; 0 keeps LitServe's own timeout."""

from __future__ import annotations

import sys
from typing import Any

import litserve
from work import work


class Work(litserve.LitAPI):
    """One worker: the default."""

    def setup(self, device: str) -> None:
        """Load nothing."""

    def predict(self, x: Any) -> str:
        """Answer after the work."""
        return work()


if __name__ == "__main__":
    port, timeout = int(sys.argv[1]), float(sys.argv[2])
    server = litserve.LitServer(
        Work(), accelerator="cpu", **({"timeout": timeout} if timeout else {})
    )
    server.run(host="127.0.0.1", port=port, generate_client_file=False)
