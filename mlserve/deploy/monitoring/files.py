"""The files of `mlserve deploy monitoring`, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mlserve.deploy.monitoring.dashboard import dashboard_text

DASHBOARD = "mlserve-dashboard.json"
ALERTS = "mlserve-alerts.yaml"
_RULES = Path(__file__).with_name("alerts.yaml")


def monitoring_files() -> Mapping[str, str]:
    """Return the texts of both files."""
    return {DASHBOARD: dashboard_text(), ALERTS: _RULES.read_text(encoding="utf-8")}
