"""The error tree: every way a request, a delivery or a job can fail, stated once.

Each error has a stable ``code`` (what scripts, dashboards and dead letters see), a ``disposition`` (what the
shell does with the delivery) and, where a caller may see it, an HTTP ``status``.

AffinityError
+- CallerError         REFUSE       the caller can mend it; nothing was kept
|  +- UnknownModel, InvalidInput, PayloadTooLarge, NeverFits, UnknownJob, IdConflict, NotCancellable, Unauthorized
|  +- UnknownWorker, UnknownOrder, CannotLoad, Pinned, NotUnpinnable
+- Overloaded          REFUSE       ``retry_after_s`` says when to try again
|  +- QueueFull, BrokerUnavailable, StoreUnavailable
+- Transient           RETRY        another attempt may succeed
|  +- LoadTimeout, JobTimeout, ExecutorDied, StoppedWithBatch, DiedWithBatch, OutOfVram, WorkerLost
+- Permanent           DEAD_LETTER  another attempt cannot succeed
|  +- UndecodableMessage, LoadFailed, JobFailed, AttemptsExhausted, Quarantined, Undeliverable, CatalogInvalid
+- InvariantBroken     STOP         a bug: the process stops, it is never retried silently
"""

from enum import StrEnum
from typing import ClassVar


class Disposition(StrEnum):
    """What becomes of the delivery whose handling raised."""

    REFUSE = "refuse"
    RETRY = "retry"
    DEAD_LETTER = "dead-letter"
    STOP = "stop"


class AffinityError(Exception):
    """Root of the tree. ``message`` says what is wrong and what to do about it."""

    code: ClassVar[str] = "internal"
    disposition: ClassVar[Disposition] = Disposition.STOP
    status: ClassVar[int] = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CallerError(AffinityError):
    """The request cannot be accepted as it is; the caller can mend it."""

    code = "bad_request"
    disposition = Disposition.REFUSE
    status = 400


class UnknownModel(CallerError):
    """The catalogue has no model of that name."""

    code = "unknown_model"
    status = 404


class InvalidInput(CallerError):
    """A field is missing, of the wrong type or out of range; ``field`` is its dotted path, or ``None``."""

    code = "invalid_input"
    status = 422

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message if field is None else f"{field}: {message}")
        self.field = field


class PayloadTooLarge(CallerError):
    """Body, batch or result is over its limit."""

    code = "payload_too_large"
    status = 413


class NeverFits(CallerError):
    """No live GPU is large enough for the model, even when empty."""

    code = "never_fits"
    status = 422


class UnknownJob(CallerError):
    """There is no job of that id, or its record has passed its retention."""

    code = "unknown_job"
    status = 404


class IdConflict(CallerError):
    """The id is taken by a job with other content."""

    code = "id_conflict"
    status = 409


class NotCancellable(CallerError):
    """The job has already ended."""

    code = "not_cancellable"
    status = 409


class UnknownWorker(CallerError):
    """No live worker has that name."""

    code = "unknown_worker"
    status = 404


class UnknownOrder(CallerError):
    """There is no order of that id, or it ended too long ago."""

    code = "unknown_order"
    status = 404


class CannotLoad(CallerError):
    """The model cannot be loaded where an operator wants it, and waiting would not change that."""

    code = "cannot_load"
    status = 409


class Pinned(CallerError):
    """The model is to stay where it is: unpin it first."""

    code = "pinned"
    status = 409


class NotUnpinnable(CallerError):
    """The pin is not one that this request could take back: it is the catalogue's, or one for every worker."""

    code = "not_unpinnable"
    status = 409


class Unauthorized(CallerError):
    """No key, or a key nobody knows."""

    code = "unauthorized"
    status = 401


class Overloaded(AffinityError):
    """Not now. Nothing was kept; ``retry_after_s`` says when to try again."""

    code = "overloaded"
    disposition = Disposition.REFUSE
    status = 503

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(Overloaded):
    """A bounded queue has no room. ``bound``: which, as ``tenant``, ``model`` or ``all``."""

    code = "overloaded"
    status = 429

    def __init__(self, message: str, retry_after_s: float = 1.0, bound: str = "all") -> None:
        super().__init__(message, retry_after_s)
        self.bound = bound


class BrokerUnavailable(Overloaded):
    """RabbitMQ did not answer, refused, or did not confirm in time."""

    code = "broker_unavailable"


class StoreUnavailable(Overloaded):
    """Redis did not answer in time."""

    code = "store_unavailable"


class Transient(AffinityError):
    """This attempt failed; another may succeed.

    ``uses_attempt`` is false where the job is not to blame; such losses are bounded on their own.
    """

    code = "transient"
    disposition = Disposition.RETRY
    uses_attempt: ClassVar[bool] = True


class LoadTimeout(Transient):
    """The model did not become resident in time."""

    code = "load_timeout"


class JobTimeout(Transient):
    """The job ran longer than its ``timeout_s``; its executor was stopped."""

    code = "job_timeout"


class ExecutorDied(Transient):
    """The executor process ended while it held the job."""

    code = "executor_died"


class StoppedWithBatch(Transient):
    """The executor was stopped because of another job of the same batch."""

    code = "stopped_with_batch"
    uses_attempt = False


class DiedWithBatch(Transient):
    """The executor died under several jobs, and which of them killed it is not known yet: each runs alone next."""

    code = "died_with_batch"
    uses_attempt = False


class OutOfVram(Transient):
    """The GPU had less memory than the footprint promised."""

    code = "out_of_vram"
    uses_attempt = False


class WorkerLost(Transient):
    """The worker's lease ran out while it held the job."""

    code = "worker_lost"
    uses_attempt = False


class Permanent(AffinityError):
    """Another attempt cannot succeed; the delivery goes to the dead-letter queue with its code."""

    code = "permanent"
    disposition = Disposition.DEAD_LETTER


class UndecodableMessage(Permanent):
    """The body of a delivery is not a job."""

    code = "undecodable_message"


class LoadFailed(Permanent):
    """The model cannot be loaded: missing or damaged weights, or a class that raises."""

    code = "load_failed"


class JobFailed(Permanent):
    """The model ran and raised."""

    code = "job_failed"


class AttemptsExhausted(Permanent):
    """The last allowed attempt failed."""

    code = "attempts_exhausted"


class Quarantined(Permanent):
    """Executors keep dying under this job. It is kept away from them until somebody has seen why."""

    code = "quarantined"


class Undeliverable(Permanent):
    """The broker delivered the job again and again, and nobody could take it."""

    code = "undeliverable"


class CatalogInvalid(Permanent):
    """The model catalogue cannot be used; the message names every entry and field at fault."""

    code = "catalog_invalid"


class InvariantBroken(AffinityError):
    """A bug in Affinity itself."""

    code = "invariant_broken"
