"""Prometheus' configuration, rules and alerts."""
