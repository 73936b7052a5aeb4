"""Grafana dashboards and Prometheus rules; ``python -m dashboards.build`` writes the JSON."""
