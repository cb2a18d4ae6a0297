"""What to decide. Pure: the worker carries it out, the dispatcher explains with it, the simulator measures it."""

from affinity.policy.admission import check_fits, fits_somewhere
from affinity.policy.decisions import Decision, GiveUp, Load, Plan, Serve, Wait
from affinity.policy.ledger import VramLedger
from affinity.policy.placement import plan

__all__ = [
    "Decision",
    "GiveUp",
    "Load",
    "Plan",
    "Serve",
    "VramLedger",
    "Wait",
    "check_fits",
    "fits_somewhere",
    "plan",
]
