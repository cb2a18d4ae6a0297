"""What others do, under the same protocol: each baseline is a ``Scheduler``; ``POLICIES`` has them by name."""

from bench.baselines.registry import POLICIES, scheduler

__all__ = ["POLICIES", "scheduler"]
