"""How a batch follows one call without the call knowing of journals.

A call tells its Record each step before it acts on it; each method returns only when the
step is on record. A Record's errors end the call: what cannot be recorded is not done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from imagen_async.errors import Charge, ImagenError
    from imagen_async.wire.generation import Generation


class Trace(NamedTuple):
    """What a gateway's log may show of one time that a request's body went out.

    Args:
        at: Unix seconds; nothing had left before.
        until: Unix seconds; all had left by then. The same if the moment was noted.
        charge: What it cost, by what came of it.
        status: The answer's HTTP status, if one came.
        request_id: The gateway's id of it.
    """

    at: float
    until: float
    charge: Charge
    status: int | None = None
    request_id: str | None = None


class Record(Protocol):
    """What one call reports, in the order in which it happens."""

    async def sending(self, idempotency_key: str) -> None:
        """Note that an attempt is about to be sent: a slot is held, no byte has left."""

    def traced(self, trace: Trace) -> None:
        """Hear of an attempt whose body went out, before the step that it ends in is told."""

    async def returned(self, charge: Charge, sends: int) -> None:
        """Note that the attempt ended without a charge; the slot is given back after this.

        Args:
            charge: The worst of the call's earlier attempts.
            sends: How often its body went out and only the table says that it was free.
        """

    async def received(self, generation: Generation) -> None:
        """Note an answer that holds links, before the first download; the slot is then given back.

        Args:
            generation: Its images in the answer's order; those that came as bytes are files by now.
        """

    async def settled(self, result: Generation | ImagenError) -> None:
        """Note the end: done, or failed or unknown with the error's charge.

        Called before the slot is given back, unless downloads followed: so at most
        ``concurrency`` calls are ever between ``sending`` and the next step.
        """


class NoRecord:
    """The Record of a call outside a batch: nothing is kept."""

    async def sending(self, idempotency_key: str) -> None:
        """Keep nothing."""

    def traced(self, trace: Trace) -> None:
        """Keep nothing."""

    async def returned(self, charge: Charge, sends: int) -> None:
        """Keep nothing."""

    async def received(self, generation: Generation) -> None:
        """Keep nothing."""

    async def settled(self, result: Generation | ImagenError) -> None:
        """Keep nothing."""


NO_RECORD = NoRecord()
