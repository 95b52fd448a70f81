"""How an item of a batch comes to its images: sent, or only downloaded if it is paid for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagen_async.batch.states import State
from imagen_async.errors import ExpiredUrlError

if TYPE_CHECKING:
    from imagen_async.batch.recorder import ItemRecorder
    from imagen_async.session.core import Core
    from imagen_async.wire.generation import Generation


async def obtain(core: Core, recorder: ItemRecorder) -> Generation:
    """Send an item, or download what an earlier run paid for; its recorder follows each step.

    Args:
        core: The client's, which sends.
        recorder: Of the item.

    Raises:
        ImagenError: How it ended without all its images.
        StoppedError: If the run has stopped, and it was not sent.
    """
    key = recorder.item.idempotency_key
    if recorder.item.state is State.RECEIVED:
        try:
            return await core.download(
                recorder.generation(),
                store=recorder.store,
                record=recorder,
                idempotency_key=key or "",
            )
        except ExpiredUrlError:
            if not recorder.resend:
                raise
            recorder.reorder()
    return await core.generate(
        recorder.item.row.request,
        store=recorder.store,
        record=recorder,
        idempotency_key=key,
        waits=True,
        downloads=True,
        charge=recorder.item.charge,
        sends=recorder.account.sends,
        patience=recorder.context.policy.patience,
    )
