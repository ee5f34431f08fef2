"""The page of a report: what is escaped, what is said of a table, what the browser may load."""

from __future__ import annotations

import re

from mlserve.report.bars import Bar, bars
from mlserve.report.machine import how_it_was_made
from mlserve.report.page import Markup, Section, document, facts, findings, sentence, table


def test_a_page_loads_nothing_and_leads_to_its_sections() -> None:
    page = document("<b> & more", ["a < b"], [Section("Memory & start", [Markup("<p>x</p>")])])

    assert page.startswith("<!doctype html>")
    assert "<title>&lt;b&gt; &amp; more</title>" in page
    assert "a &lt; b" in page
    assert '<a href="#memory-start">Memory &amp; start</a>' in page
    assert '<section id="memory-start">' in page
    assert "<p>x</p>" in page
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|@import|url\(|<script|<link", page)
    for medium in ("screen and (prefers-color-scheme: dark)", "@media print", "max-width: 640px"):
        assert medium in page


def test_a_sentence_shows_names_as_they_are_typed() -> None:
    assert sentence("in `resized`: <A>") == "in <code>resized</code>: &lt;A&gt;"
    assert "<li>no &lt;script&gt;</li>" in findings(["no <script>"])


def test_a_cell_says_its_column_where_there_is_no_head() -> None:
    shown = table("About <all>", ("name", "p50 ms"), [("a & b", Markup("<i>1</i>"))])

    assert 'aria-label="About &lt;all&gt;"' in shown
    assert '<th role="rowheader" scope="row">a &amp; b</th>' in shown
    assert '<td role="cell" data-name="p50 ms"><div><i>1</i></div></td>' in shown


def test_bars_are_on_the_scale_of_the_longest() -> None:
    shown = bars(
        [Bar("<a>", "2 MB", [(0, 2.0, "2 MB")]), Bar("b", "not known"), Bar("c", "8", [(7, 8, "")])]
    )

    assert re.findall(r'class="part (k\d)" style="width:([\d.]+)%"', shown) == [
        ("k0", "25.0"),
        ("k1", "100.0"),
    ]
    assert "&lt;a&gt;" in shown
    assert "not known" in shown


def test_the_last_section_says_how_it_was_made() -> None:
    parts = "".join(how_it_was_made("mlserve compare 'a b' < c", [("asked", "3 images")]).parts)

    assert facts([("asked", "3 images")]).splitlines()[1] in parts
    for name in ("machine", "system", "versions", "written"):
        assert f"<dt>{name}</dt>" in parts
    assert "mlserve compare &#x27;a b&#x27; &lt; c" in parts
