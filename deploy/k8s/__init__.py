"""Kubernetes manifests for kustomize, what writes their generated part, and what puts an overlay on a cluster."""
