"""What is seen of a server: the record of each request, metrics, statistics and the log.

- `telemetry`: begins and ends the record of a request;
- `metrics`: counters and histograms for Prometheus;
- `statistics`: the same by version, as Triton counts;
- `request_log`: which requests get a line in the log;
- `log`: how lines look, and who writes them.
"""
