"""Every exchange, queue, routing key, argument and Redis key, in one place.

Two installations share a broker and a Redis by having different namespaces. The facts behind the arguments are in
``docs/architecture.md``; here stands what follows from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from affinity.errors import InvariantBroken
from affinity.job import check_model_name, check_tenant

Arguments = Mapping[str, str | int]

OF = "@"
"""Between model and tenant in the name of a lane; in neither of theirs."""

PERSISTENT = 2
"""AMQP delivery mode of every message we publish."""


def lane(model: str, tenant: str) -> str:
    """Name of a lane, the jobs of one model and tenant: the routing key of its jobs. Of nobody's jobs it is the model.

    Whatever takes a lane takes a model as well.
    """
    return f"{model}{OF}{tenant}" if tenant else model


def model_in(lane_name: str) -> str:
    """The model of a lane."""
    return lane_name.partition(OF)[0]


def is_tenants(lane_name: str) -> bool:
    """Whether a lane is a tenant's."""
    return OF in lane_name


@dataclass(frozen=True, slots=True)
class Topology:
    """Names and arguments on the broker.

    ``model_ttl_s`` is the safety net: a job nobody took from a model's queue for that long goes back to fallback,
    where the next worker records its demand again.
    """

    namespace: str
    model_ttl_s: float = 600.0
    delivery_limit: int = 100

    def __post_init__(self) -> None:
        if not self.namespace or "." in self.namespace:
            # "a" has a queue "a.model.fallback" for a model of that name; so would a namespace "a.model".
            raise InvariantBroken(f"a namespace is not empty and has no dot: {self.namespace!r}")

    @property
    def jobs_exchange(self) -> str:
        """Topic exchange producers publish to, keyed by model; jobs of a tenant by model and tenant (``lane``)."""
        return f"{self.namespace}.jobs"

    @property
    def jobs_exchange_arguments(self) -> Arguments:
        """What no queue is bound for goes to fallback."""
        return {"alternate-exchange": self.fallback}

    @property
    def fallback(self) -> str:
        """Fanout exchange, and the queue behind it, for jobs whose model nobody holds."""
        return f"{self.namespace}.fallback"

    @property
    def fallback_arguments(self) -> Arguments:
        """Bounded redeliveries, no time to live, no maximum length."""
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": self.delivery_limit,
            "x-dead-letter-exchange": self.dead,
        }

    @property
    def dead(self) -> str:
        """Fanout exchange, and the queue behind it, for deliveries that gave up."""
        return f"{self.namespace}.dead"

    @property
    def dead_arguments(self) -> Arguments:
        """The end of the line: no dead-letter exchange."""
        return {"x-queue-type": "quorum"}

    def retry(self, wait_s: float) -> str:
        """Fanout exchange, and the queue behind it, for jobs that are tried again after so many seconds."""
        return f"{self.namespace}.retry.{int(wait_s * 1000)}"

    def retry_arguments(self, wait_s: float) -> Arguments:
        """Nobody consumes it: after its time to live every message goes back to the jobs exchange, under its own key.

        At least once, as with a model's queue: the broker keeps a message until the next queue has it.
        """
        return {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": self.jobs_exchange,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-message-ttl": int(wait_s * 1000),
        }

    def model_queue(self, lane_name: str) -> str:
        """Queue of one lane. Declare it for catalogue names only: each becomes an atom in the broker."""
        model, _, tenant = lane_name.partition(OF)
        return f"{self.namespace}.model.{lane(check_model_name(model), check_tenant(tenant))}"

    @property
    def model_queue_arguments(self) -> Arguments:
        """At-least-once dead-lettering needs the strategy, ``reject-publish`` and the exchange together."""
        return {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": self.fallback,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-delivery-limit": self.delivery_limit,
            "x-message-ttl": int(self.model_ttl_s * 1000),
        }

    def lane_of(self, routing_key: str) -> str:
        """The lane a routing key stands for.

        A parked job that went back to fallback carries its queue's name as routing key; all others the lane's.
        """
        return routing_key.removeprefix(f"{self.namespace}.model.")

    def model_of(self, routing_key: str) -> str:
        """The model a routing key stands for."""
        return model_in(self.lane_of(routing_key))

    @staticmethod
    def binding_arguments(worker: str) -> Arguments:
        """A worker's own binding: another worker's unbind cannot remove it, and a queue still gets one copy."""
        return {"worker": worker}


@dataclass(frozen=True, slots=True)
class Keys:
    """Names in Redis. All begin with the namespace and a colon."""

    namespace: str

    def __post_init__(self) -> None:
        if not self.namespace or ":" in self.namespace:
            raise InvariantBroken(f"a namespace is not empty and has no colon: {self.namespace!r}")

    @property
    def prefix(self) -> str:
        """Head of every key; scripts that derive keys from stored fields get it as an argument."""
        return f"{self.namespace}:"

    def job(self, job_id: str) -> str:
        """Hash: one job's record."""
        return f"{self.namespace}:job:{job_id}"

    @property
    def unpublished(self) -> str:
        """Sorted set, the outbox: ids whose publish has not been confirmed, by creation in ms."""
        return f"{self.namespace}:unpublished"

    def index(self, state: str = "", model: str = "") -> str:
        """Sorted set: ids by creation in ms, of one state and/or one model (empty: all)."""
        return f"{self.namespace}:index:{state}:{model}"

    def tenant_index(self, tenant: str, state: str = "", model: str = "") -> str:
        """``index``, of one tenant's jobs only."""
        return f"{self.namespace}:tenant:{tenant}:{state}:{model}"

    @property
    def drained(self) -> str:
        """Hash model, or ``@`` and a tenant -> how many of its jobs have ever left the queue."""
        return f"{self.namespace}:drained"

    def queued(self, lane_name: str) -> str:
        """Sorted set: ids of a model's queued jobs that may run now, by the instant they were queued, in ms; and those
        of a tenant's lane once more by themselves."""
        return f"{self.namespace}:waiting:{lane_name}"

    @property
    def delayed(self) -> str:
        """Sorted set: ids of queued jobs that are not to run yet, by the instant, in ms, from which they may."""
        return f"{self.namespace}:delayed"

    def dead(self, code: str = "", model: str = "") -> str:
        """Sorted set of dead letters, of one code and/or model (empty: all), by their place: microseconds, unique.

        A member is ``code model id``. The id of a letter that is no job begins with ``~``.
        """
        return f"{self.namespace}:dead:{code}:{model}"

    @property
    def dead_codes(self) -> str:
        """Set: codes of dead letters there are, or were."""
        return f"{self.namespace}:dead_codes"

    def letter(self, letter_id: str) -> str:
        """Hash: a dead letter that is no job."""
        return f"{self.namespace}:letter:{letter_id}"

    @property
    def redrives(self) -> str:
        """Sorted set: ids of dead letters to be put back, by the instant, in ms, at which each is."""
        return f"{self.namespace}:redrives"

    @property
    def demand(self) -> str:
        """Hash model -> sum over its queued jobs of the instant queued, in ms (whole numbers, so it stays exact). Jobs
        that are not to run yet do not count. Those of a tenant's lane stand there once more, under the lane's name."""
        return f"{self.namespace}:demand"

    @property
    def used(self) -> str:
        """Hash tenant -> the GPU seconds charged to it: what has not faded yet, when that was, and all there ever were.
        Empty: nobody's jobs, as far as they ran while tenants' waited."""
        return f"{self.namespace}:used"

    def charged(self, token: str) -> str:
        """String with a TTL: a charge that has been made."""
        return f"{self.namespace}:charged:{token}"

    @property
    def shares(self) -> str:
        """Hash tenant -> its share of the GPUs' time, as far as that is not 1."""
        return f"{self.namespace}:shares"

    @property
    def rates(self) -> str:
        """Hash model -> running mean of its arrivals per second, and when it was counted."""
        return f"{self.namespace}:rates"

    def report(self, worker: str) -> str:
        """String: a worker's last report. Outlives its lease, so that whoever notices can tidy up after it."""
        return f"{self.namespace}:report:{worker}"

    @property
    def workers(self) -> str:
        """Set: workers that have a report."""
        return f"{self.namespace}:workers"

    def lease(self, worker: str) -> str:
        """String with a TTL: the epoch under which the worker lives."""
        return f"{self.namespace}:lease:{worker}"

    def gpu(self, uuid: str) -> str:
        """String with a TTL: the worker that serves this GPU."""
        return f"{self.namespace}:gpu:{uuid}"

    def claim(self, model: str) -> str:
        """String with a TTL: the worker that is loading the model."""
        return f"{self.namespace}:claim:{model}"

    @property
    def claimed(self) -> str:
        """Set: models that have, or had, a claim. Tidied up when read."""
        return f"{self.namespace}:claimed"

    @property
    def retained(self) -> str:
        """Sorted set: ended jobs by the instant, in ms, at which Redis forgets their record; then the indexes do."""
        return f"{self.namespace}:retained"

    def reaping(self, worker: str) -> str:
        """String with a TTL: who tidies up after a lost worker."""
        return f"{self.namespace}:reaping:{worker}"

    def held(self, worker: str) -> str:
        """Set: ids of the jobs that run on a worker."""
        return f"{self.namespace}:held:{worker}"

    @property
    def turn(self) -> str:
        """String with a TTL: the dispatcher that looks for jobs that no queue has."""
        return f"{self.namespace}:turn:"

    @property
    def epoch(self) -> str:
        """Counter: the next epoch."""
        return f"{self.namespace}:epoch"

    @property
    def measured(self) -> str:
        """Hash ``model|gpu type`` -> learned footprint and times, as JSON."""
        return f"{self.namespace}:measured"

    @property
    def orders(self) -> str:
        """Hash ``model|worker`` -> id of the order that waits there (no worker: whichever is best). One each."""
        return f"{self.namespace}:orders"

    def order(self, order_id: str) -> str:
        """Hash: one operator's order, while it waits and for an hour after it has ended."""
        return f"{self.namespace}:order:{order_id}"

    @property
    def pins(self) -> str:
        """Set of ``model|worker``: pinned there by hand (no worker: everywhere)."""
        return f"{self.namespace}:pins"

    @property
    def drains(self) -> str:
        """Set of workers that are to be drained, or stay so, until an operator says otherwise."""
        return f"{self.namespace}:drains"

    @property
    def wake(self) -> str:
        """Pub/sub channel: a hint to workers that demand or residency changed; or the id of a running job that was
        cancelled."""
        return f"{self.namespace}:wake"

    @property
    def settled(self) -> str:
        """Pub/sub channel: each job that ends, as ``id record``; a hint to clients that wait."""
        return f"{self.namespace}:settled"

    @property
    def events(self) -> str:
        """Stream, capped: the one event stream."""
        return f"{self.namespace}:events"
