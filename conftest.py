"""Which tests stay together when pytest-xdist spreads the suite over processes."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a file in one process, and those that need Docker, as they share images.

    It takes effect with `--dist loadgroup`.
    """
    for item in items:
        needs_docker = item.get_closest_marker("docker") is not None
        group = "docker" if needs_docker else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
