"""A report as one HTML page, which needs nothing else: its frame, its sentences and its tables.

The page is readable from 420 pixels on, in light and dark, on paper, and with the keyboard.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mlserve.errors import counted, either, readable

COLOURS = 6
"""The colours of targets, which repeat after that: `style.css` has them as `k0`, `k1`, ..."""
_STYLE = Path(__file__).with_name("style.css")
_TYPED = re.compile(r"`([^`\n]+)`")
_LONGEST_TITLE = 60
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What the browser may load for the page: nothing but what is in it."""


class Markup(str):
    """HTML that is ready to be shown. All other text is escaped where it enters the page."""

    __slots__ = ()


def markup(text: str) -> Markup:
    """Return text as HTML; what is HTML already stays as it is."""
    return text if isinstance(text, Markup) else Markup(escape(text))


def sentence(text: str) -> Markup:
    """Return a sentence as HTML; what stands in backticks is shown as it is typed."""
    return Markup(_TYPED.sub(r"<code>\1</code>", escape(text)))


def paragraph(text: str, kind: str = "") -> Markup:
    """Return a paragraph of the kind `soft`, `verdict same`, `verdict different`, or none."""
    return Markup(f'<p class="{kind}">{markup(text)}</p>' if kind else f"<p>{markup(text)}</p>")


def findings(sentences: Iterable[str]) -> Markup:
    """Return a list of sentences."""
    items = "\n".join(f"<li>{sentence(each)}</li>" for each in sentences)
    return Markup(f'<ul class="findings">\n{items}\n</ul>')


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with a heading of its own, which the list at the top leads to."""

    title: str
    parts: Sequence[str]

    @property
    def anchor(self) -> str:
        """The name that a link goes to."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def document(title: str, head: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the whole page: its title, what stands below it, the sections in their order."""
    links = "\n".join(
        f'<li><a href="#{each.anchor}">{escape(each.title)}</a></li>' for each in sections
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{_joined(head)}
<nav aria-label="On this page"><ul>
{links}
</ul></nav>
</header>
<main>
{_joined(map(_section, sections))}
</main>
</body>
</html>
"""


def _section(section: Section) -> Markup:
    heading = f'<section id="{section.anchor}">\n<h2>{escape(section.title)}</h2>\n'
    return Markup(f"{heading}{_joined(section.parts)}\n</section>")


def _joined(parts: Iterable[str]) -> str:
    return "\n".join(map(markup, parts))


def table(
    about: str, header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = ""
) -> Markup:
    """Return a table; `about` names it for screen readers, and the first cell names a row.

    On a narrow page each row becomes a block of lines, each with the name of its column. The kind
    `plain` is for short cells, which stay on one line on a wide page.
    """
    # Tables that are laid out as blocks lose their roles in some browsers, so they are said.
    head = "".join(f'<th role="columnheader" scope="col">{markup(name)}</th>' for name in header)
    body = "\n".join(_row(header, row) for row in rows)
    return Markup(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(about)}">\n'
        f'<table role="table" class="{kind}">\n'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{body}\n</tbody>\n</table></div>'
    )


def _row(header: Sequence[str], row: Sequence[str]) -> str:
    first, *others = row
    cells = "".join(
        f'<td role="cell" data-name="{escape(name)}"><div>{markup(cell)}</div></td>'
        for name, cell in zip(header[1:], others, strict=True)
    )
    return f'<tr role="row"><th role="rowheader" scope="row">{markup(first)}</th>{cells}</tr>'


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Return names with what there is to say of each."""
    items = "\n".join(f"<dt>{markup(name)}</dt><dd>{markup(what)}</dd>" for name, what in pairs)
    return Markup(f'<dl class="facts">\n{items}\n</dl>')


def command(line: str) -> Markup:
    """Return a command line, to be copied."""
    return Markup(f"<pre><code>{escape(line)}</code></pre>")


def folded(title: str, body: str) -> Markup:
    """Return what is shown once its title is chosen, and on paper."""
    return Markup(f"<details><summary>{escape(title)}</summary>\n{body}\n</details>")


def colour(number: int) -> str:
    """Return the class of the target with this number, which gives its colour and its line."""
    return f"k{number % COLOURS}"


def legend(names: Iterable[tuple[int, str]], key: str = "key") -> Markup:
    """Return names beside their colours; the key is that of lines (`key`) or of bars (`box`)."""
    items = "\n".join(
        f'<li class="{colour(number)}"><span class="{key}"></span>{escape(name)}</li>'
        for number, name in names
    )
    return Markup(f'<ul class="legend">\n{items}\n</ul>')


def titled(names: Sequence[str], noun: str, what: str) -> str:
    """Return the title of a page on these: `a and b, compared`, or how many there are."""
    listed = either([readable(name) for name in names], "and")
    if len(listed) > _LONGEST_TITLE:
        listed = counted(len(names), noun)
    return f"{listed}, {what}"
