"""Which models of a catalogue have series of their own in the metrics of dispatcher and worker."""

from affinity.series import ModelLabels
from models.catalog import Catalog


def model_labels(catalog: Catalog, most: int) -> ModelLabels:
    """At most so many of them: pinned ones, then by name."""
    return ModelLabels([entry.name for entry in catalog], [entry.name for entry in catalog if entry.pinned], most)
