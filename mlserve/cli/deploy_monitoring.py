"""`mlserve deploy monitoring`: what watches the servers."""

from __future__ import annotations

from mlserve.cli.arguments import with_fields
from mlserve.cli.deploy_arguments import Destination


@with_fields
def monitoring(*, where: Destination) -> None:
    """Write a Grafana dashboard and alert rules for Prometheus, for all servers of mlserve.

    They know no model and no address: the dashboard asks which servers there are, and the alerts
    hold for each job that Prometheus scrapes.

    For example:

    mlserve deploy monitoring --output-dir monitoring/

    promtool check rules monitoring/mlserve-alerts.yaml
    """
    from mlserve.deploy.monitoring.files import ALERTS, DASHBOARD, monitoring_files

    folder = where.output_dir
    where.write(
        monitoring_files(),
        f"name {folder}/{ALERTS} under rule_files: of prometheus.yml, and import "
        f"{folder}/{DASHBOARD} into Grafana",
    )
