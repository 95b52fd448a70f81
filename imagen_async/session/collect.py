"""From an answer's items to images: bytes into the store, links kept, oddities noted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from imagen_async.errors import Charge, ImagenError, SaveError, Verdict
from imagen_async.storage.stores import Stored
from imagen_async.wire.generation import Generation
from imagen_async.wire.image import Image
from imagen_async.wire.verdict import error_for, judge_spoiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagen_async.session.attempt import Reply
    from imagen_async.storage.stores import ImageStore, StoreFailure
    from imagen_async.wire.request import GenerationRequest
    from imagen_async.wire.response import Item

SLACK = 0.07
"""How far a side may be from the page's size: the page's own 3:4 is 7:10."""


async def fill(
    reply: Reply,
    store: ImageStore,
    request: GenerationRequest,
    *,
    attempts: int,
    sends: int,
    idempotency_key: str | None,
) -> Generation | ImagenError:
    """Put what an answer brought into the store; return it, or why none of it can be used.

    Args:
        reply: The answer; of a task it has no images yet.
        store: Where the sinks of its embedded images came from.
        request: What was asked.
        attempts: How many HTTP exchanges the call began.
        sends: How often its body went out.
        idempotency_key: What it carried.
    """
    from imagen_async.wire.cost import reported_cost  # by ``prepare``: decimal takes its time

    answer = reply.answer
    odd: list[str] = []
    unwritten: list[str] = []
    images, usable = await _collect(answer.items, store, request, odd, unwritten)
    if reply.task is not None or (usable and not unwritten):
        return Generation(
            request,
            tuple(images),
            answer.created,
            attempts,
            reply.request_id,
            idempotency_key,
            (*answer.problems, *odd),
            answer.extras,
            reported_cost(reply.headers, answer.extras),
            reply.task,
        )
    error = _useless(reply, odd, unwritten)
    error.images = tuple(images)
    error.attempts, error.sends, error.idempotency_key = attempts, sends, idempotency_key
    return error


async def _collect(
    items: Sequence[Item],
    store: ImageStore,
    request: GenerationRequest,
    odd: list[str],
    unwritten: list[str],
) -> tuple[list[Image], bool]:
    """Return the images of items, and whether one is a link or was not cut; note what is not."""
    kept = await _kept(items, store)
    images: list[Image] = []
    usable = False
    for place, item in enumerate(items, 1):
        result, image = kept.get(place), None
        if isinstance(result, Stored):
            image, usable = result.image, usable or not result.cut
            odd.extend(oddities(result, place, request))
        elif result is not None:
            image = result.image
            (unwritten if result.disk else odd).append(result.problem)
        elif item.embedded is not None and item.embedded.problem is not None:
            odd.append(f"image {place}: {item.embedded.problem}")
        if image is not None:
            images.append(attrs.evolve(image, url=item.url, revised_prompt=item.revised_prompt))
        elif item.url is not None:
            images.append(Image(url=item.url, revised_prompt=item.revised_prompt))
            usable = True
    return images, usable


def _useless(reply: Reply, odd: list[str], unwritten: list[str]) -> ImagenError:
    """Return the error of an answer that is paid for and brought no image."""
    if unwritten:
        return SaveError(
            f"An image that came cannot be written: {'; '.join(unwritten)}.",
            verdict=Verdict.DONE,
            charge=Charge.YES,
            status=reply.status,
            request_id=reply.request_id,
        )
    reason = "; ".join((*odd, *reply.answer.problems)) or "no image in it"
    return error_for(judge_spoiled(reason, b"", reply.headers, reply.status))


async def _kept(items: Sequence[Item], store: ImageStore) -> dict[int, Stored | StoreFailure]:
    """Put what came as bytes into the store; return what became of it, by the item's place."""
    sinks = {
        place: item.embedded.sink
        for place, item in enumerate(items, 1)
        if item.embedded is not None and item.embedded.sink is not None
    }
    if not sinks:
        return {}
    numbers = [place if len(items) > 1 else None for place in sinks]
    return dict(zip(sinks, await store.keep([*sinks.values()], numbers), strict=True))


def has_links(generation: Generation) -> bool:
    """Return whether an image is behind a link yet."""
    return any(image.media_type is None for image in generation.images)


def oddities(kept: Stored, place: int, request: GenerationRequest) -> list[str]:
    """Return notes on an image: what is odd about its bytes, and a size that was not asked for.

    Args:
        kept: The image.
        place: In the answer, from 1.
        request: What was asked.
    """
    notes = [] if kept.note is None else [f"image {place}: {kept.note}"]
    image, ratio = kept.image, request.aspect_ratio
    if ratio is not None and image.width is not None and image.height is not None:
        width, height = ratio.size
        if abs(image.width - width) > SLACK * width or abs(image.height - height) > SLACK * height:
            asked = f"{ratio.value} ({width} x {height} pixels)"
            notes.append(f"asked for {asked}, got {image.width} x {image.height}")
    return notes
