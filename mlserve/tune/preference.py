"""What a tuning is for: an option of the command, which loads nothing else."""

from __future__ import annotations

from enum import StrEnum


class Preference(StrEnum):
    """What the best candidate is best at."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"
