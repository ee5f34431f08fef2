"""The report of a comparison: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from mlserve import __version__
from mlserve.client.refusals import readable
from mlserve.compare import summary
from mlserve.compare.plots import difference_plot, latency_plot
from mlserve.compare.result import Comparison

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --paper: #fff; --faint: #d5dae0; --soft: #59636e;
  --good: #1a7f37; --bad: #cf222e;
  --c0: #0969da; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df; --c4: #bf3989; --c5: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #30363d;
  --soft: #9198a1; --good: #3fb950; --bad: #f85149;
  --c0: #58a6ff; --c1: #f0883e; --c2: #3fb950; --c3: #bc8cff; --c4: #f778ba; --c5: #8b949e; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.verdict { font-size: 1.1rem; font-weight: 600; }
.same { color: var(--good); } .different { color: var(--bad); }
.scroll { overflow-x: auto; } .soft { color: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--faint);
  white-space: nowrap; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
svg .axis { stroke: var(--faint); } svg .limit { stroke: var(--bad); stroke-dasharray: 5 4; }
"""
_ABOUT = (
    "Labels and largest differences are from the first target. Times are those of one request at a "
    "time, all targets asked in turn about each image."
)


def page(found: Comparison) -> str:
    """The whole report: the verdict, the targets, the plots, what differs, and every image."""
    parts = [
        "<h1>mlserve compare</h1>",
        _verdict(found),
        "<h2>Targets</h2>",
        f'<p class="soft">{_ABOUT}</p>',
        _table(summary.DIFFERENCE_HEADER, summary.difference_rows(found)),
        _table(summary.COST_HEADER, summary.cost_rows(found)),
        "<h2>Latency</h2>",
        latency_plot(found),
        "<h2>Largest score difference of each image</h2>",
        difference_plot(found),
    ]
    problems = summary.problem_rows(found)
    if problems:
        parts += ["<h2>What differs</h2>", _table(summary.PROBLEM_HEADER, problems)]
    parts += ["<h2>Images, worst first</h2>", _images(found), _footer(found)]
    return _document("\n".join(parts))


def _document(body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>mlserve compare</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _verdict(found: Comparison) -> str:
    kind = "same" if found.is_same else "different"
    return f'<p class="verdict {kind}">{escape(summary.verdict(found))}</p>'


def _images(found: Comparison) -> str:
    return _table(summary.IMAGE_HEADER, summary.image_rows(found))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        '<div class="scroll"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _footer(found: Comparison) -> str:
    models = ", ".join(sorted({readable(r.target.model or "?") for r in found.targets}))
    when = datetime.now(UTC).isoformat(timespec="seconds")
    text = f"model {models}; {found.runs} runs; mlserve {__version__}; {when}"
    return f'<p class="soft">{escape(text)}</p>'
