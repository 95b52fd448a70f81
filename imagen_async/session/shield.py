"""Work that is done whole whatever becomes of its caller."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do work whole whatever becomes of the caller; a cancellation is raised after it."""
    # In a task of its own: no shield of anyio's holds off the caller's own Task.cancel().
    task = asyncio.create_task(work)
    cut: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cut = error
    task.result()
    if cut is not None:
        raise cut
