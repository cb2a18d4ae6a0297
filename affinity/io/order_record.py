"""Hash fields in Redis <-> ``Order``, and members of the set of pins <-> ``Pins``."""

from collections.abc import Iterable, Sequence

from affinity.orders import Action, Order, OrderState, Pins

BETWEEN = "|"
"""Stands between model and worker. No model has it in its name."""


def place_of(model: str, worker: str | None) -> str:
    """A model on a worker, or on whichever it may be, as one text."""
    return f"{model}{BETWEEN}{worker or ''}"


def order_fields(order: Order) -> list[str]:
    """What the record of a waiting order holds: name, value, ... in turn."""
    return [
        *("id", order.id, "state", str(order.state), "action", str(order.action), "by", order.by),
        *("model", order.model, "worker", order.worker or ""),
        *("asked_at", repr(float(order.asked_at)), "expires_at", repr(float(order.expires_at))),
    ]


def decode_order(flat: Sequence[str]) -> Order:
    """The order in the flat reply to HGETALL. ``ValueError`` or ``KeyError`` for another version's, or damaged."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    ended_at = fields.get("ended_at")
    return Order(
        id=fields["id"],
        action=Action(fields["action"]),
        model=fields["model"],
        worker=fields["worker"] or None,
        asked_at=float(fields["asked_at"]),
        expires_at=float(fields["expires_at"]),
        by=fields["by"],
        state=OrderState(fields["state"]),
        reason=fields.get("reason", ""),
        ended_at=None if ended_at is None else float(ended_at),
    )


def decode_pins(members: Iterable[str]) -> Pins:
    """The pins in a reply to SMEMBERS."""
    pairs = (member.partition(BETWEEN) for member in members)
    return Pins(frozenset((model, worker) for model, _, worker in pairs))
