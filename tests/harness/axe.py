"""axe-core, which knows the rules of accessible pages (https://github.com/dequelabs/axe-core)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.foreign.servers import ENVIRONMENTS
from tests.harness.chromium import Browser


def axe_script() -> str:
    """Return its script, from the environment that `make foreign` builds; skip the test without."""
    root = ENVIRONMENTS.environment("browser")
    found = list(root.glob("lib/python3*/site-packages/axe_playwright_python/axe.min.js"))
    if not found:
        pytest.skip(f"no axe-core: {ENVIRONMENTS.reason('browser')}")
    return str(found[0].read_text())


def violations(browser: Browser, axe: str) -> list[str]:
    """Return what it finds in the page, of any weight: the rule, and where."""
    browser.run(axe + "; window.axe = axe;")
    found: dict[str, Any] = browser.run("return axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {node['html']} {node['any']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def overflow(browser: Browser) -> int:
    """Return by how many pixels the page is wider than the window."""
    return int(browser.run("return document.documentElement.scrollWidth - window.innerWidth"))
