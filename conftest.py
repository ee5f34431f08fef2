"""Which tests stay together when pytest-xdist spreads the suite over processes."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class _ByFile(LoadScopeScheduling):
    """A file's tests run in one process, and all that need Docker, as they share images."""

    def _split_scope(self, nodeid: str) -> str:
        return "docker" if nodeid.startswith("tests/docker/") else nodeid.partition("::")[0]


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    """What spreads the tests. Not `--dist loadgroup`: pytest 9.2 does not show it the groups."""
    return _ByFile(config, log)
