"""Where an item stands, and the one table of how it moves; the SQL in ``schema`` agrees with it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from imagen_async.errors import Charge

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(enum.StrEnum):
    """Where an item stands."""

    NEW = "new"
    SENDING = "sending"
    RECEIVED = "received"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    DROPPED = "dropped"


class Event(enum.StrEnum):
    """What happens to an item."""

    SENDING = "an attempt is about to be sent"
    RETURNED = "the attempt ended without a charge, and another one may follow"
    RECEIVED = "a paid answer came, with a task or links that are to be collected"
    DELIVERED = "every image that came is here"
    FAILED = "the call ended with an error, or was cut off"
    UNDELIVERED = "a link of a paid answer could not be downloaded this time"
    REORDERED = "the links of a paid answer are dead, and it is to be ordered again"
    CLEARED = "the gateway's log shows that nothing was charged"
    DROPPED = "the user gave up what was charged or may have been"


_S = State
_TABLE: Final = {
    # event: (the states in which it may happen, then: if nothing was charged, if anything may be)
    Event.SENDING: ((_S.NEW, _S.SENDING, _S.FAILED, _S.UNKNOWN), _S.SENDING, _S.SENDING),
    Event.RETURNED: ((_S.SENDING,), _S.NEW, _S.UNKNOWN),
    Event.RECEIVED: ((_S.SENDING, _S.RECEIVED), _S.RECEIVED, _S.RECEIVED),
    Event.DELIVERED: ((_S.SENDING, _S.RECEIVED), _S.DONE, _S.DONE),
    Event.FAILED: (
        (_S.NEW, _S.SENDING, _S.RECEIVED, _S.FAILED, _S.UNKNOWN),
        _S.FAILED,
        _S.UNKNOWN,
    ),
    Event.UNDELIVERED: ((_S.RECEIVED,), _S.RECEIVED, _S.RECEIVED),
    Event.REORDERED: ((_S.RECEIVED,), _S.UNKNOWN, _S.UNKNOWN),
    Event.CLEARED: ((_S.UNKNOWN,), _S.NEW, _S.UNKNOWN),
    Event.DROPPED: ((_S.RECEIVED, _S.UNKNOWN), _S.DROPPED, _S.DROPPED),
}
TRANSITIONS: Final[Mapping[tuple[State, Event, Charge], State]] = {
    (state, event, charge): free if charge is Charge.NO else charged
    for event, (states, free, charged) in _TABLE.items()
    for state in states
    for charge in Charge
}
"""State, event and the worst charge so far -> the next state."""


def after(state: State, event: Event, charge: Charge) -> State:
    """Return where an item stands after an event.

    Args:
        state: Where it stood.
        event: What happened.
        charge: The worst over all its attempts, this one included.

    Raises:
        KeyError: If the event cannot happen in that state, which is a mistake of ours.
    """
    return TRANSITIONS[state, event, charge]
