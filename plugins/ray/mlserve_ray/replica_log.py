"""The lines of the replicas' logs in the log of the front, each with the replica that wrote it."""

from __future__ import annotations

import json
import logging
import sys

from mlserve.settings import LogFormat
from mlserve_ray.reports import Snapshot

_log = logging.getLogger(__name__)


class ReplicaLog:
    """Writes to stderr, where the front's own lines go. In a JSON log each line stays an object."""

    def __init__(self, log_format: LogFormat) -> None:
        self._is_json = log_format is LogFormat.JSON

    def write(self, snapshot: Snapshot) -> None:
        """Write the lines that came with a snapshot."""
        for replica, line in snapshot.lines:
            sys.stderr.write(self._shown(replica, line) + "\n")
        if snapshot.lines:
            sys.stderr.flush()
        if snapshot.lost_lines:
            _log.warning("%d lines of the replicas' logs were lost", snapshot.lost_lines)

    def _shown(self, replica: str, line: str) -> str:
        if not self._is_json:
            return f"[{replica}] {line}"
        try:
            data = json.loads(line)
        except ValueError:
            data = {"message": line}
        return json.dumps({"replica": replica, **(data if isinstance(data, dict) else {})})
