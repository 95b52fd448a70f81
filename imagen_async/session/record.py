"""How a batch follows one call without the call knowing of journals.

A call tells its Record each step before it acts on it; each method returns only when the
step is on record. A Record's errors end the call: what cannot be recorded is not done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagen_async.errors import Charge
    from imagen_async.wire.generation import Image


class Record(Protocol):
    """What one call reports, in the order in which it happens."""

    async def sending(self, idempotency_key: str) -> None:
        """Note that an attempt is about to be sent: a slot is held, no byte has left."""

    async def returned(self, charge: Charge) -> None:
        """Note that the attempt ended without a charge; the slot is given back after this.

        Args:
            charge: The worst of the call's earlier attempts.
        """

    async def received(self, images: Sequence[Image], request_id: str | None) -> None:
        """Note an answer whose images are links, before the first download.

        Args:
            images: In the answer's order; those that came as bytes are already files.
            request_id: The gateway's id of the answer.
        """


class NoRecord:
    """The Record of a call outside a batch: nothing is kept."""

    async def sending(self, idempotency_key: str) -> None:
        """Keep nothing."""

    async def returned(self, charge: Charge) -> None:
        """Keep nothing."""

    async def received(self, images: Sequence[Image], request_id: str | None) -> None:
        """Keep nothing."""


NO_RECORD = NoRecord()
