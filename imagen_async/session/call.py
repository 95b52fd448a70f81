"""One call: what it asks, what became of it so far, and the errors that tell of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from imagen_async.errors import (
    Charge,
    ImagenError,
    NotSentError,
    OutcomeUnknownError,
    RejectedError,
    SaveError,
    Verdict,
)
from imagen_async.policy.retry import History
from imagen_async.session import events
from imagen_async.wire.verdict import error_for

if TYPE_CHECKING:
    from multidict import CIMultiDict

    from imagen_async.policy.deadline import Deadline
    from imagen_async.session.attempt import FailedAttempt
    from imagen_async.session.patience import SharedPatience
    from imagen_async.session.record import Record
    from imagen_async.storage.stores import ImageStore
    from imagen_async.wire.generation import Image
    from imagen_async.wire.request import GenerationRequest
    from imagen_async.wire.verdict import Judgement


@attrs.define(eq=False)
class Call:
    """One logical request and what became of it so far.

    Args:
        request: What is asked; ``body`` is made from it once.
        body: The bytes that every attempt sends.
        headers: The headers that every attempt sends.
        idempotency_key: The key among them, or the one that would be.
        shelf: Where images go.
        record: Who follows the call.
        total: Seconds.
        waits: Whether it waits for the gate without end, as in generate_many and batch.
        fetches: Whether links are downloaded to the shelf.
        heard: Whether anybody listens to what goes well.
        charge: The worst so far, in this run and earlier ones.
        history: What its attempts came to; of earlier runs only ``sends``.
        patience: Of the run that it belongs to, if that may end for all its calls.
        keyless: Whether nothing in its headers says who asks.
    """

    request: GenerationRequest
    body: bytes
    headers: CIMultiDict[str]
    idempotency_key: str
    shelf: ImageStore
    record: Record
    total: float
    waits: bool
    fetches: bool
    heard: bool = False
    charge: Charge = Charge.NO
    id: int = attrs.field(init=False, factory=events.new_id)
    history: History = attrs.field(default=History())
    patience: SharedPatience | None = None
    keyless: bool = False
    deadline: Deadline = attrs.field(init=False)
    attempts: int = attrs.field(init=False, default=0)
    retried: bool = attrs.field(init=False, default=False)
    setback: FailedAttempt | None = attrs.field(init=False, default=None)
    images: tuple[Image, ...] = attrs.field(init=False, default=())

    @property
    def named(self) -> events.Named:
        """What every event of it begins with."""
        return self.id, self.request, self.idempotency_key

    @property
    def gave_up(self) -> str:
        """Why its whole run sends nothing more; empty while it does."""
        return "" if self.patience is None else self.patience.problem

    def count(self, judgement: Judgement) -> None:
        """Count an attempt that brought nothing."""
        refused = judgement.verdict is Verdict.REFUSED
        self.charge = max(self.charge, judgement.charge)
        self.history = History(
            failures=self.history.failures + (not refused),
            refusals=self.history.refusals + refused,
            charges=self.history.charges + (judgement.charge is not Charge.NO),
            sends=self.history.sends + judgement.counts,
        )
        if self.patience is not None:
            self.patience.tell(judgement.verdict)

    def failed(self, reason: str) -> ImagenError:
        """Return the error of the latest attempt, and why there is no further one."""
        assert self.setback is not None
        judgement = self.setback.judgement
        why = f" Not sent again: {reason}." if reason else ""
        error = error_for(
            attrs.evolve(judgement, message=judgement.message + why),
            charge=self.charge,
            attempts=self.attempts,
            sends=self.history.sends,
            idempotency_key=self.idempotency_key,
            retry_after=self.setback.retry_after,
        )
        if self.keyless and isinstance(error, RejectedError):
            error.without_key()
        return error

    def unsent(self, reason: str) -> ImagenError:
        """Return the error of a call that ended before this attempt could be sent."""
        if self.setback is not None:
            return self.failed(reason)
        return NotSentError(
            f"Not sent: {reason}.",
            verdict=Verdict.NOT_SENT,
            charge=self.charge,
            sends=self.history.sends,
            idempotency_key=self.idempotency_key,
        )

    def broken(self, error: Exception) -> ImagenError:
        """Return the error of a call that the machine itself failed."""
        kinds = {Charge.NO: NotSentError, Charge.YES: SaveError}
        verdicts = {Charge.NO: Verdict.NOT_SENT, Charge.YES: Verdict.DONE}
        return kinds.get(self.charge, OutcomeUnknownError)(
            f"This machine failed during the call ({type(error).__name__}).",
            verdict=verdicts.get(self.charge, Verdict.UNKNOWN),
            charge=self.charge,
            attempts=self.attempts,
            sends=self.history.sends,
            idempotency_key=self.idempotency_key,
        )

    def closed(self) -> ImagenError:
        """Return the error of a call whose client was closed under it."""
        free = self.charge is Charge.NO
        return (NotSentError if free else OutcomeUnknownError)(
            "The client was closed while the call was under way.",
            verdict=Verdict.NOT_SENT if free else Verdict.UNKNOWN,
            charge=self.charge,
            attempts=self.attempts,
            sends=self.history.sends,
            idempotency_key=self.idempotency_key,
        )
