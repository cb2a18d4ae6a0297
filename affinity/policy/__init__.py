"""What to decide. Pure: the worker carries it out, the dispatcher explains with it, the simulator measures it."""

from affinity.policy.admission import check_fits, fits_somewhere
from affinity.policy.decisions import Decision, GiveUp, Load, Plan, Serve, Unload, Wait
from affinity.policy.ledger import VramLedger
from affinity.policy.placement import Planner, plan

__all__ = [
    "Decision",
    "GiveUp",
    "Load",
    "Plan",
    "Planner",
    "Serve",
    "Unload",
    "VramLedger",
    "Wait",
    "check_fits",
    "fits_somewhere",
    "plan",
]
