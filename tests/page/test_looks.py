"""How the pages look on a phone and a desk, in light and dark, and to axe-core and the keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.axe import axe_script, overflow, violations
from tests.harness.chromium import Browser
from tests.harness.server import EchoServer
from tests.page.scenes import ENTER, opened, unlocked

pytestmark = pytest.mark.server

SIZES = pytest.mark.parametrize("width", [320, 420, 1280])
THEMES = pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
TAB, SPACE = "\ue004", " "


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core."""
    return axe_script()


@SIZES
@THEMES
def test_the_page(
    browser: Browser, two_versions: EchoServer, image: Path, axe: str, width: int, is_dark: bool
) -> None:
    browser.look(width=width, is_dark=is_dark)
    opened(browser, two_versions)
    browser.choose("#second", "version 1")
    browser.drop(image, "image/jpeg")
    browser.wait(lambda: len(browser.texts(".answer .label")) == 2)
    assert violations(browser, axe) == []
    assert overflow(browser) <= 0
    browser.choose("#signature", "two")
    browser.wait(lambda: browser.sees("#input-1"))
    browser.type("#input-1", "[")
    browser.click("#ask-button")
    browser.wait(lambda: browser.sees("#problem"))
    assert violations(browser, axe) == []
    assert overflow(browser) <= 0
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) is is_dark


@pytest.mark.parametrize(("width", "is_dark"), [(420, True), (1280, False)])
def test_the_document(
    browser: Browser, two_versions: EchoServer, axe: str, width: int, is_dark: bool
) -> None:
    browser.look(width=width, is_dark=is_dark)
    browser.open(f"http://{two_versions.rest}/docs")
    browser.wait(lambda: browser.sees(".operation"))
    opens = "for (const each of document.querySelectorAll(arguments[0])) each.open = true"
    browser.run(opens, ".group details:nth-of-type(8n)")
    assert violations(browser, axe) == []
    assert overflow(browser) <= 0


def test_the_form_for_the_token(browser: Browser, locked: EchoServer, axe: str) -> None:
    browser.look(width=420)
    browser.open(f"http://{locked.rest}/")
    browser.text("#token-why")
    assert violations(browser, axe) == []
    assert browser.run("return document.activeElement.id") == "token-field"


def test_the_keyboard_alone(browser: Browser, two_versions: EchoServer) -> None:
    """From the top: skip to the question, choose the kind, write, ask."""
    opened(browser, two_versions)
    browser.choose("#signature", "two")
    browser.wait(lambda: browser.sees("#input-1"))
    browser.run("document.activeElement.blur(); window.getSelection().removeAllRanges()")

    browser.press(TAB)
    assert browser.run("return document.activeElement.className") == "skip"
    browser.press(ENTER)
    assert browser.run("return document.activeElement.id") == "main"
    reached: list[str] = []
    for _ in range(12):
        browser.press(TAB)
        reached.append(
            browser.run("return document.activeElement.id || document.activeElement.value")
        )
        if reached[-1] == "ask-button":
            break
    assert reached == [
        *("first", "second", "form", "input-0", "input-1"),
        *("count", "seconds", "signature", "ask-button"),
    ]
    outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    browser.press(SPACE)
    browser.wait(lambda: browser.sees(".answer"))
    assert "horses, version 2:" in browser.run(
        "return document.getElementById('announcement').textContent"
    )


def test_the_document_says_what_there_is(browser: Browser, locked: EchoServer) -> None:
    unlocked(browser, locked, "/docs", ".operation")
    assert "/v1/models/{model}:predict" in browser.texts(".operation > summary code")

    browser.type("#filter", "whether a request")
    browser.wait(lambda: browser.texts(".operation:not([hidden]) > summary code")[:1] != ["/v2"])
    browser.type("#filter", "ready would answer")
    browser.wait(
        lambda: "/v2/health/ready" in browser.texts(".operation:not([hidden]) > summary code")
    )
    browser.run("location.hash = 'schema-Error'")
    browser.wait(lambda: browser.run("return document.getElementById('schema-Error').open"))
