"""What comes in another order than it was asked for, and what changes under the open page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.chromium import Browser
from tests.harness.echo import EchoModel
from tests.harness.ports import free_ports
from tests.harness.server import EchoServer, running
from tests.page.scenes import (
    LABEL,
    TOKEN,
    ask,
    chosen,
    give_token,
    holding,
    opened,
    signature_shown,
    unlocked,
)

pytestmark = pytest.mark.server


def test_a_signature_that_is_described_late(browser: Browser, two_versions: EchoServer) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "lenient", ["a", "b"])
    with holding(browser, "signature=two") as wait:
        browser.choose("#signature", "two")
        wait()
        signature_shown(browser, "identity_int64", ["x"])
    assert browser.texts("#fields label.name") == ["x"]
    assert chosen(browser, "#signature") == "identity_int64"


def test_asked_before_the_fields_are_known(browser: Browser, two_versions: EchoServer) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "two", ["a", "b"])
    with holding(browser, "signature=fragile") as wait:
        browser.choose("#signature", "fragile")
        browser.click("#ask-button")
        wait()
    browser.wait(lambda: browser.texts(".answer .value") == ["1.5"])


def test_another_version_while_an_answer_is_awaited(
    browser: Browser, two_versions: EchoServer, image: Path
) -> None:
    """The answer of the one before is not shown, nor that nobody waits for it."""
    opened(browser, two_versions)
    with holding(browser, ":predict") as wait:
        browser.drop(image, "image/jpeg")
        wait()
        assert browser.sees("#stop")
        browser.choose("#first", "version 1")
        browser.wait(lambda: not browser.sees("#stop"))
    assert browser.sees("#empty")
    assert not browser.sees(".answer")

    with holding(browser, ":predict") as wait:
        browser.click("#ask-button")
        wait()
        browser.choose("#second", "version 2")
        browser.wait(lambda: browser.texts(LABEL) == ["sorrel", "zebra"])
    assert browser.texts(LABEL) == ["sorrel", "zebra"]


def test_two_questions_one_after_the_other(browser: Browser, two_versions: EchoServer) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "identity_int64", ["x"])
    browser.type("#input-0", "[1]")
    with holding(browser, ":predict") as wait:
        browser.click("#ask-button")
        wait()
        browser.type("#input-0", "[2]")
        browser.click("#ask-button")
        browser.wait(lambda: browser.texts(".answer .value") == ["2"])
    assert browser.texts(".answer .value") == ["2"]
    assert '"inputs":{"x":[2]}' in browser.text("#command")


def test_both_versions_get_what_was_asked(browser: Browser, two_versions: EchoServer) -> None:
    """Also if something else is written before the second one is asked."""
    opened(browser, two_versions)
    signature_shown(browser, "identity_int64", ["x"])
    browser.choose("#second", "version 1")
    browser.type("#input-0", "[1]")
    with holding(browser, ":predict") as wait:
        browser.click("#ask-button")
        wait()
        browser.type("#input-0", "[7]")
    assert browser.text("#verdict") == "The answers are the same."
    assert browser.texts(".answer .value") == ["1", "1"]


def test_a_form_that_is_written_in_stays(browser: Browser, two_versions: EchoServer) -> None:
    """When the page asks anew what is served; and a file is not sent for another type."""
    opened(browser, two_versions)
    signature_shown(browser, "identity_int64", ["x"])
    browser.type("#input-0", "[12")
    browser.click("#ask-button")
    assert "x is not JSON" in browser.text("#problem")
    browser.click("#input-0")
    browser.run("return connect()")
    assert browser.run("return document.activeElement.id") == "input-0"
    assert browser.run("return document.activeElement.value") == "[12"
    assert "x is not JSON" in browser.text("#problem")

    signature_shown(browser, "identity_bytes", ["x"])
    browser.wait(lambda: "BYTES" in browser.run("return byId('input-0-kind').textContent"))
    assert not browser.sees("#problem")
    browser.run("document.querySelector('input[name=kind][value=form]').click()")
    browser.give("#fields input[type=file]", Path(__file__))
    browser.wait(lambda: "takes the place" in browser.text("#fields .row .muted"))
    browser.choose("#signature", "identity_int64")
    browser.wait(lambda: "INT64" in browser.text("#input-0-kind"))
    ask(browser)
    assert browser.texts(".answer .value") == ["1"]


def test_a_token_that_is_refused_later(browser: Browser, locked: EchoServer, image: Path) -> None:
    unlocked(browser, locked)
    browser.run("token = 'the-one-before'")  # as if the server had got another one
    with holding(browser, ":predict") as wait:
        browser.drop(image, "image/jpeg")
        wait()  # the page looks at the load, too, and learns it from that
        assert "does not match" in browser.text("#token-why")
        give_token(browser)
    ask(browser)
    assert browser.text(LABEL) == "sorrel"
    assert not browser.sees("#token")

    # A browser may keep the page for the way back, but not the token in it.
    browser.run("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    assert TOKEN not in browser.run("return token")
    assert "only callers that send its token" in browser.text("#token-why")


def test_models_and_servers_that_come_and_go(browser: Browser, tmp_path: Path, image: Path) -> None:
    model = EchoModel(tmp_path / "horses")
    model.put(2**62)
    (port,) = free_ports(1)
    flags = (f"--rest-port={port}", "--max-request-bytes=4096")
    with running(model, tmp_path / "log1", *flags) as server:
        server.wait_ready(2**62)
        opened(browser, server)
        browser.drop(image, "image/jpeg")
        assert browser.text(LABEL) == "sorrel"
        assert f"--version {2**62}" in browser.text("#command")

        large = tmp_path / "large.jpg"
        large.write_bytes(bytes(5000))
        browser.give("#file", large)
        assert "large.jpg has 4.9 KiB" in browser.text("#problem")
        assert "--max-request-bytes" in browser.text("#problem .hint")
        browser.drop(image, "image/jpeg")
        browser.wait(lambda: browser.sees(LABEL))

        model.put(2**62 + 1, label="zebra")
        browser.wait(lambda: f"version {2**62 + 1}" in chosen(browser, "#first"))
        browser.wait(lambda: not browser.sees(".answer"))
        ask(browser)
        assert browser.text(LABEL) == "zebra"
    browser.wait(lambda: "no answer came" in browser.text("#state"))
    ask(browser)
    assert "no answer came" in browser.text(".answer .error")

    model.put(2**62 + 2, label="ox")
    with running(model, tmp_path / "log2", *flags) as server:
        browser.wait(lambda: f"version {2**62 + 2}" in chosen(browser, "#first"))
        browser.wait(lambda: browser.text("#tile-rate").endswith("\n0 since its start"))
        ask(browser)
        assert browser.text(LABEL) == "ox"
