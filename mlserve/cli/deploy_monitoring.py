"""`mlserve deploy monitoring`: what watches the servers."""

from __future__ import annotations

from mlserve.cli.deploy_arguments import Destination, Force, OutputDir, Print, write_out
from mlserve.cli.output import OutputFormat, OutputOption


def monitoring(
    output_dir: OutputDir = None,
    prints: Print = False,
    force: Force = False,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Write a Grafana dashboard and alert rules for Prometheus, for all servers of mlserve.

    They know no model and no address: the dashboard asks which servers there are, and the alerts
    hold for each job that Prometheus scrapes.

    For example:

    mlserve deploy monitoring --output-dir monitoring/

    promtool check rules monitoring/mlserve-alerts.yaml
    """
    from mlserve.deploy.monitoring.files import ALERTS, DASHBOARD, monitoring_files

    where = Destination(output_dir, prints, force)
    write_out(
        monitoring_files(),
        where,
        output,
        f"name {output_dir}/{ALERTS} under rule_files: of prometheus.yml, and import "
        f"{output_dir}/{DASHBOARD} into Grafana",
    )
