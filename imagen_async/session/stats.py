"""How the calls of one client end: each end is counted, told and, if money is lost, warned of."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from imagen_async.errors import Charge, OutcomeUnknownError
from imagen_async.session import events
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from imagen_async.errors import ImagenError
    from imagen_async.session.call import Call
    from imagen_async.session.stream import Outcome
    from imagen_async.wire.generation import Generation


@attrs.frozen
class Stats:
    """What a client did so far, and is doing now.

    Args:
        queued: Calls that wait for a slot now.
        in_flight: Calls that hold a slot now.
        attempts: HTTP exchanges of the calls that ended.
        done: Calls that brought images.
        failed: Calls that ended in an error, nothing charged.
        unknown: Calls that ended in an error and were or may have been charged.
        images: Images that came.
        dropped: Calls given up by cancellation, or settled and never read, that may be paid for.
    """

    queued: int = 0
    in_flight: int = 0
    attempts: int = 0
    done: int = 0
    failed: int = 0
    unknown: int = 0
    images: int = 0
    dropped: int = 0


class Ends:
    """Counts how calls end, and tells of it; a call that was queued ends here once.

    Args:
        listener: Who is told.
    """

    def __init__(self, listener: events.Listener) -> None:
        self._listener = listener
        self._counts: Counter[str] = Counter()

    def stats(self, **now: int) -> Stats:
        """Return what happened so far, and what happens now."""
        return Stats(**self._counts, **now)

    def done(self, call: Call, generation: Generation) -> Generation:
        """Note that a call brought images, and return them."""
        self._counts["attempts"] += call.attempts
        self._counts["done"] += 1
        self._counts["images"] += len(generation.images)
        if call.heard:
            self._listener.tell(events.Done(*call.named, generation))
        return generation

    def failed(self, call: Call, error: ImagenError) -> None:
        """Note that a call ended in an error."""
        self._counts["attempts"] += call.attempts
        if error.charge is Charge.NO:
            self._counts["failed"] += 1
        else:
            self._counts["unknown"] += 1
        self._listener.tell(events.Failed(*call.named, error))

    def cancelled(self, call: Call) -> None:
        """Note that a call was given up; warn if it was sent and may be paid for."""
        self._counts["attempts"] += call.attempts
        if call.attempts and call.charge is not Charge.NO:
            kept = ", and what had come is on its Cancelled event" if call.images else ""
            told = f"Call {call.id} (idempotency key {call.idempotency_key}) was given up{kept}."
            if call.task_id:
                told += f" Ask the gateway for its task {printable(call.task_id, 200)}."
            self._drop(OutcomeUnknownError(told, charge=call.charge))
        ended = events.Cancelled(*call.named, call.charge, call.attempts, call.images, call.task_id)
        self._listener.tell(ended)

    def unread(self, outcome: Outcome) -> None:
        """Note that an outcome was settled and never read; warn if it may be paid for."""
        charge = Charge.YES if outcome.error is None else outcome.error.charge
        if charge is not Charge.NO:
            key = getattr(outcome.generation or outcome.error, "idempotency_key", None)
            told = f"Item {outcome.index} (idempotency key {key}) settled and was never read."
            self._drop(OutcomeUnknownError(told, charge=charge))

    def _drop(self, loss: OutcomeUnknownError) -> None:
        self._counts["dropped"] += 1
        events.log.warning("%s", loss)
