"""What the scenes on the page have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
    browser.open(f"{server.endpoint('rest')}{path}")
    give_token(browser, awaited)


def give_token(browser: Browser, awaited: str = "#ask-form") -> None:
    """Give the token that the page asks for, and wait until what it stood before is shown."""
    assert browser.text("#token-why")
    browser.type("#token-field", TOKEN)
    browser.press(ENTER)
    browser.wait(lambda: browser.sees(awaited))


def signature_shown(browser: Browser, name: str, inputs: list[str]) -> None:
    """Choose a signature, and wait for the fields of its inputs."""
    browser.choose("#signature", name)
    browser.wait(lambda: browser.texts("#fields label.name") == inputs)


def command_shown(browser: Browser, kind: str) -> str:
    """Return the command of that kind for the question as it stands, once it is shown."""
    browser.run(f"document.querySelector('input[name=command][value=\"{kind}\"]').click()")
    starts = {"Command line": ("mlserve ",), "curl": ("curl ",), "Python": ("from ", "import ")}
    browser.wait(lambda: browser.sees("#commands:not([aria-busy])"))
    text = browser.text("#command")
    assert text.startswith(starts[kind])
    return text


def chosen(browser: Browser, selector: str) -> str:
    """Return the text of the option that a select has."""
    script = "return document.querySelector(arguments[0]).selectedOptions[0]?.text ?? ''"
    return str(browser.run(script, selector))


def fact(browser: Browser, name: str) -> str:
    """Return what the answer says of the runtime, the version, ..."""
    names, values = browser.texts(".facts dt"), browser.texts(".facts dd")
    return dict(zip(names, values, strict=True))[name]


@contextmanager
def holding(browser: Browser, part: str) -> Iterator[Callable[[], None]]:
    """Hold back the first answer to an address that has `part` in it; yield what waits for one.

    The page gets it at the end of the block, and has dealt with it when that is over.
    """
    browser.run(
        """
        const own = window.fetch, part = arguments[0];
        window.held = null;
        window.fetch = async (address, how) => {
            const isFirst = window.fetch !== own && String(address).includes(part);
            if (isFirst) window.fetch = own;
            const answer = await own(address, how);
            if (!isFirst) return answer;
            const text = await answer.text();
            await new Promise((go) => { window.held = go; });
            const { ok, status, statusText, headers } = answer;
            return { ok, status, statusText, headers, text: async () => text };
        };
        """,
        part,
    )

    def wait() -> None:
        browser.wait(lambda: browser.run("return window.held !== null"))

    yield wait
    wait()
    # A timer comes after everything that the answer itself has brought about.
    browser.run("window.held(); return new Promise((go) => setTimeout(go))")


def answer_with(
    browser: Browser, part: str, body: str, headers: Mapping[str, str] | None = None
) -> None:
    """Have every request to an address with `part` in it get this answer, until the next call."""
    browser.run(
        """
        const [part, body, headers] = arguments;
        window.ownFetch ??= window.fetch;
        window.fetch = async (address, how) => String(address).includes(part)
            ? new Response(body, { headers: JSON.parse(headers) }) : window.ownFetch(address, how);
        """,
        part,
        body,
        json.dumps(headers or {}),
    )


def ask(browser: Browser) -> None:
    """Press the button, and wait until the page awaits no answer any more."""
    browser.click("#ask-button")
    browser.wait(lambda: not browser.sees("#stop"))


def refuses_to_be_left(browser: Browser, address: str) -> None:
    """Assert that nothing was asked of anybody but the server, nor complained of."""
    asked = [url for url in browser.asked_for() if not url.startswith(("data:", "blob:"))]
    assert asked
    assert [url for url in asked if not url.startswith(address)] == []
    assert [text for text in browser.complaints() if "status of" not in text] == []


def faults(browser: Browser) -> list[Any]:
    """Return what the page has failed with since the last look: errors that nobody caught."""
    return [text for text in browser.complaints() if "Uncaught" in text]
