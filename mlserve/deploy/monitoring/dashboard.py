"""The Grafana dashboard: rows of panels, each a few queries on the metrics of `/metrics`.

What Grafana wants to know of a panel is much the same for all of them, so that a panel is described
here in one call, and the JSON is made of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_WIDTH = 24
"""Columns of Grafana's grid."""
_SCHEMA = 39
"""The version of the dashboard's form, which every later Grafana brings up to its own."""
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_HERE = 'job=~"$job",instance=~"$instance"'
_MODEL = f'{_HERE},model=~"$model"'
_RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and what its series are called."""

    expr: str
    legend: str = "__auto"


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel, `width` columns wide; a `stat` shows the last values, the others their course.

    `unit` is Grafana's name of it. `about` is what the reader should know.
    """

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 8
    about: str = ""
    kind: str = "timeseries"
    is_stacked: bool = False
    steps: Sequence[tuple[float | None, str]] = ((None, "green"),)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels of one height under a heading."""

    title: str
    height: int
    panels: Sequence[Panel]


def _share(part: str, whole: str) -> str:
    return f"sum({part}) / sum({whole})"


def _rate(metric: str, labels: str = _HERE) -> str:
    return f"rate({metric}{{{labels}}}{_RATE})"


def _quantile(share: float, metric: str, by: str, labels: str) -> str:
    return f"histogram_quantile({share}, sum by ({by}) (rate({metric}_bucket{{{labels}}}{_RATE})))"


def _latency(share: float) -> Query:
    of = "mlserve_request_duration_seconds"
    return Query(_quantile(share, of, "le", _MODEL), f"p{share * 100:g}")


_PREDICT = f'{_MODEL},kind="predict"'
_WELL_FORMED = f'{_PREDICT},code=~"ok|deadline_exceeded|overloaded|unavailable|inference_failed"'
_ROWS = (
    Row(
        "At a glance",
        4,
        (
            Panel(
                "Servers ready",
                (Query(f"sum(mlserve_ready{{{_HERE}}})"),),
                width=4,
                kind="stat",
                steps=((None, "red"), (1, "green")),
            ),
            Panel(
                "Answered in time",
                (
                    Query(
                        _share(
                            _rate("mlserve_requests_total", f'{_PREDICT},code="ok"'),
                            _rate("mlserve_requests_total", _WELL_FORMED),
                        )
                    ),
                ),
                "percentunit",
                width=4,
                kind="stat",
                about="The share of the well-formed predict requests that got an answer.",
                steps=((None, "red"), (0.95, "orange"), (0.99, "green")),
            ),
            Panel(
                "Requests a second",
                (Query(f"sum({_rate('mlserve_requests_total', _PREDICT)})"),),
                "reqps",
                width=4,
                kind="stat",
            ),
            Panel(
                "99th percentile",
                (_latency(0.99),),
                "s",
                width=4,
                kind="stat",
            ),
            Panel(
                "Predicted wait",
                (Query(f"max(mlserve_predicted_wait_seconds{{{_HERE}}})"),),
                "s",
                width=4,
                kind="stat",
                about="How long a request that comes now would wait for a slot. Scale on it.",
            ),
            Panel(
                "Golden inputs wrong",
                (Query(f"sum(mlserve_golden_inputs_wrong{{{_MODEL}}}) or vector(0)"),),
                width=4,
                kind="stat",
                about="Inputs that are not answered as the certificates of their models say.",
                steps=((None, "green"), (1, "red")),
            ),
        ),
    ),
    Row(
        "Answers",
        8,
        (
            Panel(
                "Predict requests by how they ended",
                (
                    Query(
                        f"sum by (code) ({_rate('mlserve_requests_total', _PREDICT)})", "{{code}}"
                    ),
                ),
                "reqps",
                is_stacked=True,
            ),
            Panel(
                "Refused, by reason",
                (Query(f"sum by (reason) ({_rate('mlserve_refused_total')}) > 0", "{{reason}}"),),
                "reqps",
                about="A refusal is an answer: the caller knows at once, and may ask elsewhere.",
                is_stacked=True,
            ),
            Panel(
                "Late, by the stage that they were in",
                (Query(f"sum by (stage) ({_rate('mlserve_late_total')})", "{{stage}}"),),
                "reqps",
                about="Their deadline passed in the server. These should be rare.",
                is_stacked=True,
            ),
        ),
    ),
    Row(
        "Time",
        8,
        (
            Panel(
                "Time of a request",
                tuple(map(_latency, (0.5, 0.95, 0.99))),
                "s",
                about="From its arrival to the last byte of its answer.",
            ),
            Panel(
                "Where the time of the 99th percentile goes",
                (
                    Query(
                        _quantile(0.99, "mlserve_stage_duration_seconds", "stage, le", _MODEL),
                        "{{stage}}",
                    ),
                ),
                "s",
            ),
            Panel(
                "Time of a request by model, 95th percentile",
                (
                    Query(
                        _quantile(0.95, "mlserve_request_duration_seconds", "model, le", _MODEL),
                        "{{model}}",
                    ),
                ),
                "s",
            ),
        ),
    ),
    Row(
        "Load",
        8,
        (
            Panel(
                "Running and waiting",
                (
                    Query(f"sum(mlserve_requests_running{{{_HERE}}})", "running"),
                    Query(f"sum(mlserve_requests_waiting{{{_HERE}}})", "waiting"),
                ),
            ),
            Panel(
                "Predicted wait",
                (Query(f"mlserve_predicted_wait_seconds{{{_HERE}}}", "{{instance}}"),),
                "s",
            ),
            Panel(
                "Work for nothing",
                (
                    Query(
                        _share(
                            _rate("mlserve_work_total", f'{_HERE},outcome=~"late|gone"'),
                            _rate("mlserve_work_total"),
                        ),
                        "late, or its client had left",
                    ),
                ),
                "percentunit",
            ),
            Panel(
                "Requests in a batch",
                (Query(_quantile(0.5, "mlserve_batch_size", "le", _HERE), "median"),),
                about="Where batching is on.",
            ),
            Panel(
                "Memory of requests",
                (
                    Query(f"sum(mlserve_body_bytes{{{_HERE}}})", "being read"),
                    Query(f"sum(mlserve_queue_bytes{{{_HERE}}})", "in the queue"),
                    Query(f"sum(mlserve_body_bytes_limit{{{_HERE}}})", "limit on what is read"),
                ),
                "bytes",
            ),
            Panel(
                "CPUs used",
                (Query(_rate("process_cpu_seconds_total"), "{{instance}}"),),
                about="By the server's process. `--processes` has others beside it.",
            ),
        ),
    ),
    Row(
        "Models",
        8,
        (
            Panel(
                "Versions",
                (
                    Query(
                        f"mlserve_model_version{{{_MODEL}}}",
                        "{{model}} {{version}}: {{state}} ({{instance}})",
                    ),
                ),
                about="END is a version that could not be loaded.",
            ),
            Panel(
                "What runs them, and their certificates",
                (
                    Query(
                        f"mlserve_certificate{{{_MODEL}}}",
                        "{{model}} {{version}}: {{runtime}}, {{precision}}, {{device}}, {{state}}",
                    ),
                ),
            ),
            Panel(
                "Golden inputs",
                (
                    Query(
                        f"mlserve_golden_inputs_wrong{{{_MODEL}}}", "wrong: {{model}} {{version}}"
                    ),
                    Query(
                        f"mlserve_golden_inputs_asked{{{_MODEL}}}", "asked: {{model}} {{version}}"
                    ),
                ),
            ),
        ),
    ),
    Row(
        "Processes and telemetry",
        8,
        (
            Panel(
                "Memory of processes",
                (
                    Query(f"process_resident_memory_bytes{{{_HERE}}}", "{{instance}}: server"),
                    Query(
                        f"mlserve_process_memory_bytes{{{_MODEL}}}",
                        "{{instance}}: {{model}} {{version}}, {{pid}}",
                    ),
                ),
                "bytes",
            ),
            Panel(
                "Processes that died",
                (
                    Query(
                        f"increase(mlserve_process_restarts_total{{{_MODEL}}}{_RATE})",
                        "{{model}} {{version}}",
                    ),
                ),
            ),
            Panel(
                "Lost log lines and spans",
                (
                    Query(f"sum({_rate('mlserve_log_lines_lost_total')})", "log lines"),
                    Query(
                        f"sum by (reason) ({_rate('mlserve_otlp_spans_lost_total')})",
                        "spans: {{reason}}",
                    ),
                ),
                "cps",
            ),
        ),
    ),
)


def dashboard_text() -> str:
    """Return the dashboard as JSON, to be imported into Grafana or provisioned."""
    return json.dumps(_dashboard(), indent=2, ensure_ascii=False) + "\n"


def _dashboard() -> dict[str, Any]:
    return {
        "description": "Written by `mlserve deploy monitoring`: servers of mlserve.",
        "title": "mlserve",
        "uid": "mlserve",
        "tags": ["mlserve"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "graphTooltip": 1,  # one cross-hair for all panels
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": list(_variables())},
        "panels": list(_placed()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    yield _variable("job", "Job", "mlserve_build_info")
    yield _variable("instance", "Server", 'mlserve_build_info{job=~"$job"}')
    yield _variable("model", "Model", f"mlserve_model_version{{{_HERE}}}")


def _variable(name: str, label: str, of: str) -> dict[str, Any]:
    query = f"label_values({of}, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",  # a refused request has no model
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _placed() -> Iterator[dict[str, Any]]:
    """Yield the headings and panels with their places, row by row."""
    number = top = 0
    for row in _ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": _WIDTH, "h": 1},
        }
        top += 1
        left = 0
        for panel in row.panels:
            if left + panel.width > _WIDTH:
                left, top = 0, top + row.height
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": row.height}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            left += panel.width
        top += row.height


def _panel(panel: Panel) -> dict[str, Any]:
    steps = [{"value": value, "color": color} for value, color in panel.steps]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.kind == "timeseries":
        fill = 30 if panel.is_stacked else 0
        stacking = {"mode": "normal" if panel.is_stacked else "none"}
        defaults["custom"] = {"fillOpacity": fill, "stacking": stacking, "showPoints": "never"}
        options: dict[str, Any] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": panel.kind == "stat",
                "range": panel.kind != "stat",
            }
            for place, query in enumerate(panel.queries)
        ],
    }
