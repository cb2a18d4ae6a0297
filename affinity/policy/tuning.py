"""The numbers of the policy, in one place: what was measured to work, and the switches of the ablations."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """Times are in seconds or in load times of the model concerned.

    * ``first_rent``: a first copy that costs evictions is bought once its queue has waited, in sum, so many times what
      they cost. One that costs none is bought at once.
    * ``rent``: a further copy is bought once its queue has waited, in sum, so many times what the copy costs;
      ``scarce`` times as long while another model in demand has no copy at all.
    * ``beside``: while the model is being loaded somewhere, yet another copy is bought only where the last job in its
      queue would start so many times later than the copy costs.
    * ``memory_s``: how far ahead an eviction is judged: a victim costs its load time, times the chance that it is asked
      for within this time.
    * ``young_loads``: a resident is no victim before it is so many of its own load times old.
    * ``overdue_loads``: a job that waited so many of its load times may end a warm turn; ``amortised_loads``: but only
      where the worker has served so many load times since its last load. Without it the fleet turns into FIFO.
    * ``misfit_s``: how long accepted jobs of a model that fits no live GPU any more wait for a larger one.
    * ``overlap``: GPUs serve residents while they load.
    * ``hold``, ``by_last_use``: off and on in the ablations only.
    """

    first_rent: float = 1.5
    rent: float = 2.0
    scarce: float = 10.0
    beside: float = 3.0
    memory_s: float = 30.0
    young_loads: float = 0.25
    overdue_loads: float = 15.0
    amortised_loads: float = 10.0
    misfit_s: float = 60.0
    overlap: bool = True
    hold: bool = True
    by_last_use: bool = False


DEFAULT = Tuning()
NO_HOLD = Tuning(hold=False)
LRU_EVICTION = Tuning(by_last_use=True)
UNAMORTISED_GUARD = Tuning(amortised_loads=0.0)
