"""Files for who watches the servers: a Grafana dashboard, and alert rules for Prometheus."""
