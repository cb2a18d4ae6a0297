"""Draining as callers see it."""

from pydantic import BaseModel, ConfigDict, Field


class DrainRequest(BaseModel):
    """Nothing: the path says it all. `{}`, or no body."""

    model_config = ConfigDict(extra="forbid")


class DrainView(BaseModel):
    """Whether a worker is to be drained, and what that comes to. `GET /workers` says how far it is."""

    worker: str
    drain: bool = Field(description="True until it is undrained, whatever becomes of its process.")
    detail: str
