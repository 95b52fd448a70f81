"""One call: what it asks, what became of it so far, and the errors that tell of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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
    from collections.abc import Mapping

    from multidict import CIMultiDict

    from imagen_async.policy.deadline import Deadline
    from imagen_async.session.patience import SharedPatience
    from imagen_async.session.record import Record
    from imagen_async.storage.stores import ImageStore
    from imagen_async.wire.image import Image
    from imagen_async.wire.request import GenerationRequest
    from imagen_async.wire.verdict import Judgement


NEW = History()
"""Of a call that nothing came of yet."""


class FailedAttempt(NamedTuple):
    """An attempt that brought nothing.

    Args:
        judgement: What it means.
        retry_after: Seconds that its answer asked to wait.
    """

    judgement: Judgement
    retry_after: float | None = None


@attrs.define(eq=False, repr=False)
class Call:
    """One logical request and what became of it so far.

    Args:
        request: What is asked; ``body`` is made from it once.
        body: The bytes that every attempt sends.
        headers: The headers that every attempt sends.
        idempotency_key: The key among them, or the one that would be.
        store: Where images go.
        record: Who follows the call.
        total: Seconds for all of it: attempts, waits and downloads.
        waits: Whether it waits for the gate without end, as in generate_many and batch.
        downloads: Whether links are downloaded to the store.
        heard: Whether anybody listens to what goes well.
        charge: The worst so far, in this run and earlier ones.
        history: What its attempts came to; of earlier runs only ``sends``.
        patience: Of the run that it belongs to, if that may end for all its calls.
        keyless: Whether nothing in its headers says who asks.

    Attributes:
        id: Unlike that of any other call of this process.
        deadline: When ``total`` is over; infinite for a call that waits, until it is let in.
        attempts: HTTP exchanges that it began.
        retried: Whether its latest attempt was paid for from the retry budget.
        failure: Its latest attempt, if that brought nothing.
        images: What came.
        task_id: The gateway's name of the task that is to bring the images.
    """

    request: GenerationRequest
    body: bytes
    headers: CIMultiDict[str]
    idempotency_key: str
    store: ImageStore
    record: Record
    total: float
    waits: bool
    downloads: bool
    heard: bool = False
    charge: Charge = Charge.NO
    id: int = attrs.field(init=False, factory=events.new_id)
    history: History = NEW
    patience: SharedPatience | None = None
    keyless: bool = False
    deadline: Deadline = attrs.field(init=False)
    attempts: int = attrs.field(init=False, default=0)
    retried: bool = attrs.field(init=False, default=False)
    failure: FailedAttempt | None = attrs.field(init=False, default=None)
    images: tuple[Image, ...] = attrs.field(init=False, default=())
    task_id: str | None = attrs.field(init=False, default=None)
    charge_before: Charge = attrs.field(init=False, default=Charge.NO)

    @property
    def named(self) -> events.Named:
        """What every event of it begins with."""
        return self.id, self.request, self.idempotency_key

    @property
    def key_used_before(self) -> bool:
        """Whether an attempt before the running one carried its key."""
        sent_before = self.attempts > 1 or self.charge is not Charge.NO
        return sent_before and "Idempotency-Key" in self.headers

    @property
    def gave_up(self) -> str:
        """Why its whole run sends nothing more; empty while it does."""
        return "" if self.patience is None else self.patience.problem

    def count(self, failure: FailedAttempt) -> None:
        """Count an attempt that brought nothing."""
        self.failure, judgement = failure, failure.judgement
        refused, pending = judgement.verdict is Verdict.REFUSED, judgement.pending
        self.charge = max(self.charge, judgement.charge)
        self.history = History(
            failures=self.history.failures + (not refused and not pending),
            refusals=self.history.refusals + refused,
            charges=self.history.charges + (judgement.charge is not Charge.NO),
            sends=self.history.sends + judgement.counts,
            pending=self.history.pending + pending,
        )
        if self.patience is not None:
            self.patience.tell(judgement.verdict)

    def failed(self, reason: str) -> ImagenError:
        """Return the error of the latest attempt, and why there is no further one."""
        assert self.failure is not None
        judgement = self.failure.judgement
        why = f" Not sent again: {reason}." if reason else ""
        error = error_for(
            attrs.evolve(judgement, message=judgement.message + why),
            charge=self.charge,
            attempts=self.attempts,
            sends=self.history.sends,
            idempotency_key=self.idempotency_key,
            retry_after=self.failure.retry_after,
        )
        if self.keyless and isinstance(error, RejectedError):
            error.without_key()
        return error

    def unsent(self, reason: str) -> ImagenError:
        """Return the error of a call that ended before this attempt could be sent."""
        if self.failure is not None:
            return self.failed(reason)
        return self._ended(NotSentError, Verdict.NOT_SENT, f"Not sent: {reason}.")

    def broken(self, error: Exception) -> ImagenError:
        """Return the error of a call that the machine itself failed."""
        kind, verdict = _ENDS[self.charge]
        return self._ended(
            kind, verdict, f"This machine failed during the call ({type(error).__name__})."
        )

    def closed(self) -> ImagenError:
        """Return the error of a call whose client was closed under it."""
        kind, verdict = _ENDS[min(self.charge, Charge.MAYBE)]
        return self._ended(kind, verdict, "The client was closed while the call was under way.")

    def _ended(self, kind: type[ImagenError], verdict: Verdict, message: str) -> ImagenError:
        return kind(
            message,
            verdict=verdict,
            charge=self.charge,
            attempts=self.attempts,
            sends=self.history.sends,
            idempotency_key=self.idempotency_key,
            task_id=self.task_id,
        )


_ENDS: Mapping[Charge, tuple[type[ImagenError], Verdict]] = {
    Charge.NO: (NotSentError, Verdict.NOT_SENT),
    Charge.MAYBE: (OutcomeUnknownError, Verdict.UNKNOWN),
    Charge.YES: (SaveError, Verdict.DONE),
}
"""What a call ends as that stops halfway, by what its attempts may have cost."""
