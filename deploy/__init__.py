"""Everything that puts Affinity on a machine: images, dashboards, manifests, and ``local`` for one bare machine."""
