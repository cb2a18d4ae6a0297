"""Dead letters and redrives as callers see them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from dispatcher.dead_letters import DEFAULT_RATE, MAX_IDS, MAX_RATE, MIN_RATE
from dispatcher.schemas import MODEL_PATTERN, Instant, JobErrorView

CODE_PATTERN = r"^[a-z][a-z_]{0,63}$"
PLACE_PATTERN = r"^[0-9]{1,17}$"

_NOT: JsonDict = {"type": "null"}
_SAID: list[JsonDict] = [
    {"required": ["ids"], "properties": {"ids": {"type": "array"}, "code": _NOT, "model": _NOT, "all": _NOT}},
    {"required": ["all"], "properties": {"all": {"const": True}, "code": _NOT, "model": _NOT, "ids": _NOT}},
    {
        "anyOf": [{"required": [name], "properties": {name: {"type": "string"}}} for name in ("code", "model")],
        "properties": {"ids": _NOT, "all": _NOT},
    },
]
"""Exactly one of these ways to say which dead letters are meant."""


class DeadLetterView(BaseModel):
    """What gave up, and why. A failed job, or a message that is no job (its id begins with `~`)."""

    id: str
    kind: Literal["job", "message"]
    model: str
    code: str = Field(examples=["quarantined"])
    error: JobErrorView = Field(description="The last one.")
    worker: str | None = Field(description="Who had it last.")
    created_at: Instant
    died_at: Instant
    attempts: int = Field(description="Of its last life; 0 for a message.")
    losses: int = Field(description="Starts lost through no fault of the job.")
    deaths: int = Field(description="Executors that died under it.")
    life: int = Field(description="How often it was put back before.")
    tenant: str | None
    size_bytes: int | None = Field(description="Of the body of a message.")
    excerpt: str | None = Field(description="The beginning of the body of a message.")


class DeadLetterPage(BaseModel):
    """Dead letters, newest first."""

    dead_letters: list[DeadLetterView]
    cursor: str | None = Field(description="Give it back for the next page; null at the end.")


class RedriveRequest(BaseModel):
    """Which dead letters: `ids`, or all of a `code`, a `model` or both, or `all`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"code": "executor_died", "rate": 10}, {"ids": ["my-job-1"]}],
            "oneOf": list(_SAID),
        },
    )

    ids: list[str] | None = Field(None, min_length=1, max_length=MAX_IDS)
    code: str | None = Field(None, pattern=CODE_PATTERN)
    model: str | None = Field(None, pattern=MODEL_PATTERN)
    all: Literal[True] | None = Field(None, description="Without any filter: every dead letter.")
    rate: float = Field(DEFAULT_RATE, ge=MIN_RATE, le=MAX_RATE, description="Jobs per second that are put back.")


class RedriveAnswer(BaseModel):
    """What is put back, in the order in which it died, starting now."""

    scheduled: int
    unknown: list[str] = Field(description="Of `ids`, those that are no dead letters.")
    ends_at: Instant | None = Field(description="When the last of them is put back.")
