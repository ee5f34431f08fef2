"""What the scenes on the page have in common."""

from __future__ import annotations

from tests.harness.chromium import Browser
from tests.harness.server import EchoServer

TOKEN = "a-token-of-this-test"
LABEL = ".answer .label"
ENTER = "\ue007"
"""The key, as WebDriver names it."""


def opened(browser: Browser, server: EchoServer) -> str:
    """Open the page, and return its address once the question is shown."""
    address = f"http://{server.rest}/"
    browser.open(address)
    browser.wait(lambda: browser.sees("#ask-form"))
    return address


def unlocked(
    browser: Browser, server: EchoServer, path: str = "/", awaited: str = "#ask-form"
) -> None:
    """Open the page of a server that wants the token, and give it."""
    browser.open(f"http://{server.rest}{path}")
    assert browser.text("#token-why")
    browser.type("#token-field", TOKEN)
    browser.press(ENTER)
    browser.wait(lambda: browser.sees(awaited))


def signature_shown(browser: Browser, name: str, inputs: list[str]) -> None:
    """Choose a signature, and wait for the fields of its inputs."""
    browser.choose("#signature", name)
    browser.wait(lambda: browser.texts("#fields label.name") == inputs)


def fact(browser: Browser, name: str) -> str:
    """Return what the answer says of the runtime, the version, ..."""
    names, values = browser.texts(".facts dt"), browser.texts(".facts dd")
    return dict(zip(names, values, strict=True))[name]


def refuses_to_be_left(browser: Browser, address: str) -> None:
    """Assert that nothing was asked of anybody but the server, nor complained of."""
    asked = [url for url in browser.asked_for() if not url.startswith(("data:", "blob:"))]
    assert asked
    assert [url for url in asked if not url.startswith(address)] == []
    assert [text for text in browser.complaints() if "status of" not in text] == []
