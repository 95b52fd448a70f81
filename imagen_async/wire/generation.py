"""What one call brought: images, and what came with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.wire.image import Image, filtered, grid_bundle
from imagen_async.wire.short_repr import short_repr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imagen_async.wire.cost import Cost
    from imagen_async.wire.request import GenerationRequest
    from imagen_async.wire.task import Task


@attrs.frozen
class Generation:
    """What one call brought.

    Args:
        request: What was asked.
        images: Every image that came, whatever ``n`` asked.
        created: The gateway's time of creation, Unix seconds.
        attempts: How many HTTP exchanges the call began.
        request_id: The gateway's id of the answer.
        idempotency_key: The key that every attempt carried.
        problems: Notes on what is odd: a wrong size, an item without an image.
        extras: What else the answer held, such as ``usage``.
        cost: What the gateway says that it cost; None if it does not say.
        task: Where the images are to be collected; None once they came.
    """

    request: GenerationRequest
    images: tuple[Image, ...]
    created: int | None = None
    attempts: int = 1
    request_id: str | None = None
    idempotency_key: str | None = None
    problems: tuple[str, ...] = ()
    extras: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    cost: Cost | None = None
    task: Task | None = attrs.field(default=None, repr=False)
    __repr__ = short_repr

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = grid_bundle(self.images, self.request.prompt, repr(self))
        return filtered(bundle, include, exclude)
