"""Bars: one for each target or load, with its figure beside it; they are text, so names wrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mlserve.report.page import Markup, colour


@dataclass(frozen=True, slots=True)
class Bar:
    """What a bar stands for: its `parts` lie one after the other, each with its colour and title.

    `text` is the figure in words. A bar without parts is of something that is not known.
    """

    name: str
    text: str
    parts: Sequence[tuple[int, float, str]] = ()

    @property
    def length(self) -> float:
        """The sum of the parts."""
        return sum(value for _, value, _ in self.parts)


def bars(found: Sequence[Bar]) -> Markup:
    """Return a list of bars, all on the scale of the longest."""
    longest = max((each.length for each in found), default=0.0) or 1.0
    items = "\n".join(_item(each, longest) for each in found)
    return Markup(f'<ul class="bars">\n{items}\n</ul>')


def _item(found: Bar, longest: float) -> str:
    parts = "".join(
        f'<span class="part {colour(number)}" style="width:{100 * value / longest:.1f}%" '
        f'title="{escape(title)}"></span>'
        for number, value, title in found.parts
    )
    return (
        f'<li><span class="name">{escape(found.name)}</span>'
        f'<span class="track" aria-hidden="true">{parts}</span>'
        f'<span class="value">{escape(found.text)}</span></li>'
    )
