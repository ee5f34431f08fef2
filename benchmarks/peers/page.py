"""The part of docs/benchmarks.md that `make bench-peers` writes, between its markers."""

from __future__ import annotations

from collections.abc import Sequence

from environments import ROOT
from figures import Comparison, Figure, Measure, Results, Server, comparisons, measures
from plots import named, number_text, write_plots
from servers import PEERS

PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"
BEGIN = "<!-- written by `make bench-peers`: what stands here is lost the next time -->"
END = "<!-- end of what `make bench-peers` writes -->"
_BEHIND = 0.97
"""Ratios above this are within the noise: no loss is named."""
_PLOTTED = 16
_BEHIND_IN = (
    "The better of mlserve's rows (gRPC or REST) beside the best other server, for every figure "
    "below where it is more than 3 % worse:"
)
_CEILING = (
    '"In process" is the same work without a server: callers of one session. A caller asks with '
    "all threads, or as many callers as there are CPUs ask with one thread each."
)
_EQUAL_WORK = (
    "All do the same work: mlserve's image pipeline, used as a library, and ONNX Runtime with "
    "threads that spin, as they do by default. Only mlserve's own server runs it in its own way. "
    "That all give the same labels and scores is checked before anything is timed. The settings "
    "that a server's documentation offers were tried with 16 clients, and the best were taken."
)


def write_page(results: Results) -> None:
    """Write the figures into the page, and the plots beside it."""
    for model in results.models:
        title, servers = f"{model}, {_PLOTTED} clients", results.servers(model)
        write_plots(IMAGES / f"peers-{model}", title, servers, _plotted())
    PAGE.write_text(replaced(PAGE.read_text(), section(results)))


def replaced(page: str, part: str) -> str:
    """Return the page with that part between the markers. Raises ValueError without markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or END in after or BEGIN in after:
        raise ValueError(f"{PAGE.name} needs one line {BEGIN} and, after it, one line {END}")
    return f"{before}{BEGIN}\n\n{part.strip()}\n\n{END}{after}"


def section(results: Results) -> str:
    """Return the whole part in Markdown."""
    parts = [_where_behind(results), _measured_on(results)]
    parts += [_model(results, model) for model in results.models]
    return "\n\n".join([*parts, _setups(results), *_warnings(results)])


def _where_behind(results: Results) -> str:
    lines = ["### Where mlserve is behind", ""]
    lost = [
        _loss(model, comparison)
        for model in results.models
        for comparison in comparisons(results.servers(model))
        if comparison.ratio < _BEHIND
    ]
    if not lost:
        return "\n".join([*lines, "Nowhere in this run, beyond 3 %."])
    return "\n".join([*lines, _BEHIND_IN, "", *lost])


def _loss(model: str, found: Comparison) -> str:
    unit = found.measure.unit
    (our_server, ours), (their_server, theirs) = found.ours, found.theirs
    return (
        f"- `{model}`, {found.measure.name}: {our_server.name} {number_text(ours.median)}{unit}, "
        f"{their_server.name} {number_text(theirs.median)}{unit} ({found.ratio:.2f} of it)"
    )


def _measured_on(results: Results) -> str:
    facts = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    return (
        f"Measured on: {facts}. The command: `{results.command}`. Load generator and server share "
        "the CPUs. A figure is the median of the rounds, in each of which every server is started, "
        "measured and ended in turn; ± is half of the distance from the least to the most."
    )


def _model(results: Results, model: str) -> str:
    servers = results.servers(model)
    clients = sorted({n for server in servers if not server.is_in_process for n in server.clients})
    of_all = measures(clients)
    rates = [each for each in of_all if each.name.endswith("answers")]
    others = [each for each in of_all if not each.name.endswith("answers")]
    image = f"images/peers-{model}"
    return "\n".join(
        [
            f"### `{model}` beside other servers",
            "",
            "<picture>",
            f'  <source media="(prefers-color-scheme: dark)" srcset="{image}-dark.svg">',
            f'  <img alt="{model}: the servers as bars" src="{image}-light.svg">',
            "</picture>",
            "",
            "Answers a second:",
            "",
            table(servers, rates),
            "",
            "Latency, overload, start and memory:",
            "",
            table([server for server in servers if not server.is_in_process], others),
            "",
            _CEILING,
        ]
    )


def table(servers: Sequence[Server], columns: Sequence[Measure]) -> str:
    """Return a table with a row for each server; the best server of a column is bold."""
    real = [server for server in servers if not server.is_in_process]
    best = {measure.name: measure.best(real) for measure in columns}
    lines = [
        "| server | " + " | ".join(f"{each.name},{_unit(each)}" for each in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for server in servers:
        cells = []
        for measure in columns:
            winner = best[measure.name]
            is_best = winner is not None and winner[0] is server
            cells.append(_cell(measure.of(server), is_best=is_best))
        lines.append(f"| {named(server)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _unit(measure: Measure) -> str:
    """Return the unit for a heading: with a space before it."""
    return " 1/s" if measure.unit == "/s" else measure.unit


def _cell(figure: Figure | None, *, is_best: bool) -> str:
    if figure is None:
        return "-"
    text = number_text(figure.median)
    text = f"**{text}**" if is_best else text
    return text if figure.low == figure.high else f"{text} ± {figure.spread / 2:.0%}"


def _setups(results: Results) -> str:
    lines = [
        "### How the servers were set up",
        "",
        _EQUAL_WORK,
        "",
        "| server | version | runs with | settings tried, answers a second | documentation |",
        "|---|---|---|---|---|",
    ]
    for peer in PEERS:
        chosen = [
            f"{results.settings(model, peer.name)} (`{model}`)"
            for model in results.models
            if results.settings(model, peer.name)
        ]
        trials = [
            f"{trial.settings}: {number_text(trial.rate)} (`{trial.model}`)"
            for trial in results.trials
            if trial.server == peer.name
        ]
        if peer.name in results.left_out:
            chosen.append(f"left out: {results.left_out[peer.name]}")
        if chosen:
            version = results.versions[peer.name.partition(",")[0]]
            cells = (peer.name, version, "; ".join(chosen), "; ".join(trials) or "-")
            lines.append("| " + " | ".join(cells) + f" | [page]({peer.source}) |")
    ours = f"mlserve {results.versions['mlserve']}, as installed; ONNX Runtime"
    return "\n".join([*lines, "", f"{ours} {results.versions['ONNX Runtime']}."])


def _warnings(results: Results) -> list[str]:
    """Return what makes figures doubtful, with the servers that it was said of."""
    said: dict[str, dict[str, None]] = {}
    for each in results.rounds:
        for text in each.warnings:
            kind = "late" if "after their moment" in text else "busy"
            said.setdefault(kind, {})[f"{each.server} (`{each.model}`)"] = None
    texts = {
        "late": "The generator sent some requests late, which counts as latency, to",
        "busy": "The generator used most of a core, so it may have been the limit, with",
    }
    return [f"{texts[kind]} {', '.join(servers)}." for kind, servers in said.items()]


def _plotted() -> list[Measure]:
    wanted = {f"{_PLOTTED} clients, answers", f"{_PLOTTED} clients, p99"}
    found = [each for each in measures([_PLOTTED]) if each.name in wanted]
    return [*found, *(each for each in measures([]) if each.name.startswith("in time"))]
