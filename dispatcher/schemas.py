"""The shapes of requests and answers, for OpenAPI. Routes check and write JSON by hand (``bodies``, ``affinity.wire``),
since that is several times faster; tests keep these models in step with what they do.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from affinity.job import DEFAULT_MAX_ATTEMPTS, JobState, StartKind
from affinity.orders import Action, OrderState
from affinity.policy.explain import Standing
from affinity.wire import MAX_ATTEMPTS, MAX_SECONDS

EXAMPLE_INPUT: JsonDict = {"texts": ["A man is eating food."]}
ID_PATTERN = r"^[A-Za-z0-9._:\-]{1,128}$"
MODEL_PATTERN = r"^[A-Za-z0-9._:/\-]{1,128}$"
MAX_NUMBER = 10**16
"""Above it a number is not written digit by digit any more, and can be no id."""

Instant = Annotated[str, Field(description="RFC 3339, UTC.", examples=["2026-01-31T12:00:00.000000Z"])]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]


class JobRequest(BaseModel):
    """A job to run."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "minilm-l6-v2", "input": EXAMPLE_INPUT}]}
    )

    model: str = Field(
        pattern=MODEL_PATTERN, description="Name in the catalogue; `GET /models` lists them.", examples=["minilm-l6-v2"]
    )
    input: Any = Field(description="What the model takes; see docs/http.md.")
    id: str | None = Field(None, pattern=ID_PATTERN, description="Idempotency key. Left out: a new one is made.")
    ttl_s: Seconds | None = Field(None, description="Give up if the job has not started after this long.")
    timeout_s: Seconds | None = Field(None, description="Longest run of one attempt. Left out: the model's own.")
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] | None = Field(
        DEFAULT_MAX_ATTEMPTS, description="Starts before it fails for good."
    )
    metadata: dict[str, Any] | None = Field({}, description="Yours; returned with the job, never looked at.")


class JobErrorView(BaseModel):
    """Why a job failed."""

    code: str = Field(examples=["job_timeout"])
    message: str


class LifeView(BaseModel):
    """What became of a job before it was put back from the dead letters."""

    created_at: Instant
    finished_at: Instant
    attempts: int
    losses: int = Field(description="Attempts that were not held against it.")
    deaths: int = Field(description="Executors that died under it.")
    worker: str | None
    error: JobErrorView


class JobView(BaseModel):
    """A job as it stands."""

    id: str
    model: str
    state: JobState
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    attempts: int
    worker: str | None = Field(description="The worker that ran it last.")
    start: StartKind | None = Field(description="warm: the model was in VRAM. cold: it had to be loaded.")
    wait_s: float | None = Field(description="From acceptance to the start.")
    load_s: float | None = Field(description="Part of the wait that was the load of its model.")
    exec_s: float | None = Field(description="Time on the GPU.")
    result: Any = Field(description="What the model returned, once succeeded.")
    error: JobErrorView | None
    metadata: dict[str, Any]
    retry_at: Instant | None = Field(None, description="Only of a job that failed and waits to be tried again.")
    lives: list[LifeView] | None = Field(None, description="What became of it before it was put back, if it was.")


class DecisionView(BaseModel):
    """What the workers' common plan does for the job's model."""

    kind: Literal["serve", "load", "unload", "give_up", "wait"]
    worker: str | None = Field(description="Who carries it out; null where all wait.")
    victims: list[str] = Field(description="Models that leave VRAM for it.")
    until: Instant | None = Field(description="When waiting may end by itself.")
    reason: str


class OrderRequest(BaseModel):
    """Where. May be left out."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"worker": "w1"}]})

    worker: str | None = Field(
        None,
        min_length=1,
        description="The worker's id. Left out: whichever is best to load, all to unload, pin, unpin.",
    )


class OrderView(BaseModel):
    """An order by hand to load or unload a model on one worker. It ends once and for good."""

    id: str
    action: Action
    model: str
    worker: str | None = Field(description="Null: whichever is best.")
    state: OrderState
    asked_at: Instant
    asked_by: str = Field(description="The caller's key, shortened beyond use, or address.")
    expires_at: Instant = Field(description="Given up if it could not be carried out by then.")
    ended_at: Instant | None
    reason: str | None = Field(description="Why it ended so.")
    outlook: DecisionView | None = Field(description="What the workers' common plan does for it while it waits.")


class AskedView(BaseModel):
    """What will happen. No orders: it is so already."""

    detail: str
    orders: list[OrderView]


class PinView(BaseModel):
    """Where a model is pinned, and by whom."""

    model: str
    pinned: bool = Field(description="On every worker.")
    pinned_by: Literal["catalogue", "hand"] | None = Field(description="Who pinned it on every worker.")
    pinned_on: list[str] = Field(description="Workers on which it is pinned by hand.")


class CandidateView(BaseModel):
    """One worker, and why it was or was not chosen."""

    worker: str
    standing: Standing
    reason: str


class EtaView(BaseModel):
    """When the job may start, in seconds from now."""

    start_in_s: float
    low_s: float = Field(description="Times turn out short, and no job of another model goes first.")
    high_s: float = Field(description="Times turn out long, and every queued job of another model goes first.")
    assuming: list[str]


class WaitingView(BaseModel):
    """Why a queued job waits."""

    position: int = Field(description="1: the next of its model.")
    queued: int = Field(description="Jobs that wait for its model.")
    waited_s: float
    decision: DecisionView
    candidates: list[CandidateView] = Field(description="Every live worker.")
    eta: EtaView | None
    no_eta: str | None = Field(description="Why there is no `eta`; null where there is one.")


class RanView(BaseModel):
    """Where a job's time went. What is known only at the end is null until then."""

    worker: str | None
    start: StartKind | None
    wait_s: float | None
    wait_for_load_s: float | None = Field(description="Part of `wait_s` in which its model was loaded.")
    wait_in_queue_s: float | None = Field(description="The rest of `wait_s`.")
    load_s: float | None = Field(description="The load it caused; 0 for a warm start.")
    evicted: list[str] | None = Field(
        description="Models that had to leave VRAM for that load; null where it caused none, or it is not known."
    )
    exec_s: float | None
    total_s: float | None = Field(description="From acceptance to the end.")


class ExplainView(BaseModel):
    """Why a job waits, or ran where it ran."""

    id: str
    model: str
    state: JobState
    attempts: int
    losses: int = Field(description="Starts lost through no fault of the job.")
    summary: str
    waiting: WaitingView | None = Field(description="Only while it is queued.")
    ran: RanView | None = Field(description="Only once it has started.")


class Fault(BaseModel):
    """One field at fault."""

    field: str = Field(examples=["input.texts"])
    message: str


class ProblemView(BaseModel):
    """RFC 9457 problem details. `code` is stable: programs look at it, people read `detail`."""

    type: str = Field(examples=["urn:affinity:error:unknown_model"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=["unknown_model"])
    errors: list[Fault] | None = Field(None, description="The fields at fault, where there are any.")


class NotCancellableView(ProblemView):
    """Why a job was not cancelled."""

    job: JobView = Field(description="The job as it ended.")


class JobPage(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobView]
    cursor: str | None = Field(description="Give it back for the next page; null at the end.")


class BatchRequest(BaseModel):
    """Jobs to run."""

    model_config = ConfigDict(extra="forbid")

    jobs: list[JobRequest]


class BatchAnswer(BaseModel):
    """What became of each job, in order."""

    accepted: int
    refused: int
    jobs: list[JobView | ProblemView]


class GpuView(BaseModel):
    """A GPU and what its memory holds. `foreign_bytes`: used by other programs."""

    uuid: str
    index: int
    name: str
    total_bytes: int
    used_bytes: int
    free_bytes: int
    foreign_bytes: int
    utilization: float | None = Field(description="0 to 1; null where the driver cannot say.")


class ResidentView(BaseModel):
    """A model in VRAM."""

    model: str
    bytes: int
    state: Literal["loading", "ready", "draining"]
    running: int = Field(description="Jobs that run on it now.")
    pinned: bool = Field(description="Never evicted, because of the catalogue or by hand.")
    loaded_at: Instant
    last_used_at: Instant


class WorkerView(BaseModel):
    """A worker: one GPU and its loop."""

    id: str
    node: str
    lease_age_s: float = Field(description="Since its last report.")
    as_of: Instant
    draining: bool
    busy: bool
    gpu: GpuView
    residents: list[ResidentView]
    cached: list[str] = Field(description="Models whose weights the host keeps in RAM: back in VRAM by one copy.")
    metrics_url: str


class Workers(BaseModel):
    """The live workers, by id."""

    workers: list[WorkerView]


class MeasuredView(BaseModel):
    """What was learned of a model on one type of GPU."""

    gpu: str
    footprint_bytes: int
    load_s: float
    exec_s: float


class ModelView(BaseModel):
    """A model of the catalogue and its demand."""

    name: str
    runtime: str
    max_batch: int
    timeout_s: float
    pinned: bool = Field(description="Never evicted from any worker, because of the catalogue or by hand.")
    pinned_by: Literal["catalogue", "hand"] | None
    pinned_on: list[str] = Field(description="Workers on which it is pinned by hand.")
    orders: list[OrderView] = Field(description="What was asked for by hand and waits.")
    declared_bytes: int | None
    holders: list[str] = Field(description="Workers on which it is resident or loading.")
    queued: int = Field(description="Accepted jobs that have not started.")
    depth: int | None = Field(description="Messages in its queue on the broker; null where there is none to ask.")
    oldest_wait_s: float | None
    measured: list[MeasuredView]


class Models(BaseModel):
    """The catalogue, by name."""

    models: list[ModelView]


class Health(BaseModel):
    """The process serves."""

    status: Literal["healthy"]
    timestamp: Instant


class Ready(BaseModel):
    """Broker and store answered."""

    status: Literal["ready"]
    broker: Literal["ok"]
    store: Literal["ok"]
    warnings: list[str] = Field(description="What works, and may lose jobs one day.")


class ProduceRequest(BaseModel):
    """A message of the older producer."""

    id: (
        Annotated[str, Field(pattern=ID_PATTERN)]
        | Annotated[int, Field(gt=-MAX_NUMBER, lt=MAX_NUMBER)]
        | Annotated[float, Field(gt=-MAX_NUMBER, lt=MAX_NUMBER)]
        | None
    ) = None
    payload: Any
    processing_time: float | None = Field(None, ge=0, description="Seconds the echo model pretends to work.")
    model: str = Field("echo", pattern=MODEL_PATTERN)


class ProduceAnswer(BaseModel):
    """As the older producer answered."""

    status: Literal["success"]
    message_id: str
    timestamp: Instant


class BatchProduceRequest(BaseModel):
    """Messages of the older producer."""

    model_config = ConfigDict(extra="forbid")

    messages: list[ProduceRequest]


class BatchProduceProblemView(ProblemView):
    """Why a batch was not taken as a whole."""

    messages_produced: int | None = Field(None, description="How many were taken, where it failed on the way.")


class BatchProduceAnswer(BaseModel):
    """As the older producer answered."""

    status: Literal["success"]
    messages_produced: int
