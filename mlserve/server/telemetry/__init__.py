"""Observability: the record of each request, metrics, statistics and the log.

- `telemetry`: begins and ends the record of a request;
- `metrics`: what Prometheus gets: counters, histograms and gauges, and their page;
- `statistics`: counts by version, as Triton keeps them;
- `request_log`: which requests get a line in the log;
- `log`: formats, limits and writes log lines.
"""
