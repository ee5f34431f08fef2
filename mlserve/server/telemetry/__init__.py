"""Observability: the record of each request, metrics, statistics and the log.

- `telemetry`: begins and ends the record of a request;
- `metrics`: counters and histograms for Prometheus, and their page;
- `gauges`: values read from the server when Prometheus asks;
- `statistics`: counts by version, as Triton keeps them;
- `request_log`: which requests get a line in the log;
- `log`: formats, limits and writes log lines.
"""
