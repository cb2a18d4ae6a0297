"""Grafana's dashboards as code, what is made of it, and how Grafana finds both."""
