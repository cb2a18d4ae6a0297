"""Which models have time series of their own. Everything that is labelled by model asks here first.

A catalogue of thousands of models, each with dozens of series on every worker, would be the largest thing Prometheus
stores. The choice is by place in the catalogue (which is in order of names), so every process makes the same one, and
sums over processes are right.
"""

from collections.abc import Iterable

OTHER = "other"
"""The label of all models without series of their own."""

DEFAULT_MODELS = 200


class ModelLabels:
    """The first ``most`` of ``models`` as given, pinned ones before them. Any other name, known or not: ``other``."""

    def __init__(self, models: Iterable[str], pinned: Iterable[str] = (), most: int = DEFAULT_MODELS) -> None:
        ordered = dict.fromkeys([*pinned, *models])
        self.names: tuple[str, ...] = tuple(ordered)[:most]
        self._own = frozenset(self.names)

    def of(self, model: str) -> str:
        """The label of that model."""
        return model if model in self._own else OTHER


class EveryModel(ModelLabels):
    """No bound: each model by its name. For tests and for whoever has few models."""

    def __init__(self) -> None:
        super().__init__(())

    def of(self, model: str) -> str:
        """The model's name."""
        return model
