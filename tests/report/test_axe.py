"""Reports in a browser, to axe-core, and with names that are markup.

Needs what `tests/page` needs: Debian's Chromium with its driver, and axe-core from `make foreign`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import chromium
from tests.harness.axe import axe_script, overflow, violations
from tests.harness.chromium import Browser
from tests.report.samples import HOSTILE, SAMPLES, photos

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium.require()
    with chromium.browsing(tmp_path_factory.mktemp("browser")) as window:
        yield window


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file of every kind of report, by its name in `samples.py`."""
    images, folder = photos(tmp_path_factory.mktemp("photos")), tmp_path_factory.mktemp("reports")
    paths = {name: folder / f"{name}.html" for name in SAMPLES}
    for name, path in paths.items():
        path.write_text(SAMPLES[name](images), encoding="utf-8")
    return paths


def unfold(browser: Browser) -> None:
    browser.run("for (const each of document.querySelectorAll('details')) each.open = true")


@pytest.mark.parametrize("width", [420, 1280])
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_everybody_can_read_a_report(
    browser: Browser, pages: dict[str, Path], width: int, is_dark: bool
) -> None:
    axe = axe_script()
    browser.look(width=width, is_dark=is_dark)
    found = {}
    for name, path in pages.items():
        browser.open(path.as_uri())
        unfold(browser)
        found[name] = violations(browser, axe)
        assert overflow(browser) <= 0, name
    assert found == {name: [] for name in pages}


def test_a_report_runs_nothing_and_asks_for_nothing(
    browser: Browser, pages: dict[str, Path]
) -> None:
    for path in pages.values():
        browser.open(path.as_uri())
        unfold(browser)
        assert browser.complaints() == []
        asked = [url for url in browser.asked_for() if not url.startswith("data:image/jpeg;")]
        assert asked == [path.as_uri()]
    browser.open(pages["hostile"].as_uri())
    assert (
        browser.run("return document.querySelectorAll('script, h1 ~ h1, svg[onload]').length") == 0
    )
    shown = browser.text("main")
    assert all(name in shown for name in HOSTILE if name.isprintable())
    attributes = (
        "return [...document.querySelectorAll('*')].flatMap((each) => each.getAttributeNames())"
    )
    assert not [name for name in browser.run(attributes) if name.startswith("on")]
