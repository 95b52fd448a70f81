"""From an answer's items to images: bytes into the store, links kept, oddities noted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from imagen_async.storage.stores import Stored
from imagen_async.wire.image import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagen_async.storage.stores import ImageStore, StoreFailure
    from imagen_async.wire.request import GenerationRequest
    from imagen_async.wire.response import Item

SLACK = 0.07
"""How far a side may be from the page's size: the page's own 3:4 is 7:10."""


@attrs.frozen
class Collected:
    """What an answer's items came to.

    Args:
        images: In the answer's order; those that came as links have no bytes yet.
        problems: Why an item gave none, and what is odd about the others.
        unwritten: Why an image that came could not be written; empty if all were.
        usable: Whether there is an image that was not cut, or a link.
    """

    images: tuple[Image, ...]
    problems: tuple[str, ...] = ()
    unwritten: tuple[str, ...] = ()
    usable: bool = True


async def collect(
    items: Sequence[Item], store: ImageStore, request: GenerationRequest
) -> Collected:
    """Put the images that came as bytes into the store and gather the links.

    Args:
        items: Of the answer.
        store: Where the sinks of its embedded images came from.
        request: What was asked, to compare sizes.
    """
    if not [item for item in items if item.embedded]:
        return Collected(tuple([_link(item) for item in items]))
    kept = await _kept(items, store)
    images: list[Image] = []
    problems: list[str] = []
    unwritten: list[str] = []
    usable = False
    for place, item in enumerate(items, 1):
        result, image = kept.get(place), None
        if isinstance(result, Stored):
            image, usable = result.image, usable or not result.cut
            problems.extend(oddities(result, place, request))
        elif result is not None:
            image = result.image
            (unwritten if result.disk else problems).append(result.problem)
        elif item.embedded is not None and item.embedded.problem is not None:
            problems.append(f"image {place}: {item.embedded.problem}")
        if image is not None:
            image = attrs.evolve(image, url=item.url, revised_prompt=item.revised_prompt)
        elif item.url is not None:
            image, usable = _link(item), True
        if image is not None:
            images.append(image)
    return Collected(tuple(images), tuple(problems), tuple(unwritten), usable)


async def _kept(items: Sequence[Item], store: ImageStore) -> dict[int, Stored | StoreFailure]:
    """Put what came as bytes into the store; return what became of it, by the item's place."""
    several = len(items) > 1
    sinks = {
        place: item.embedded.sink
        for place, item in enumerate(items, 1)
        if item.embedded is not None and item.embedded.sink is not None
    }
    if not sinks:
        return {}
    numbers = [place if several else None for place in sinks]
    return dict(zip(sinks, await store.keep([*sinks.values()], numbers), strict=True))


def _link(item: Item) -> Image:
    return Image(url=item.url, revised_prompt=item.revised_prompt)


def oddities(kept: Stored, place: int, request: GenerationRequest) -> tuple[str, ...]:
    """Return notes on an image: what is odd about its bytes, and a size that was not asked for.

    Args:
        kept: The image.
        place: In the answer, from 1.
        request: What was asked.
    """
    notes = () if kept.note is None else (f"image {place}: {kept.note}",)
    return (*notes, *_size_problems(kept.image, request))


def _size_problems(image: Image, request: GenerationRequest) -> tuple[str, ...]:
    if request.aspect_ratio is None or image.width is None or image.height is None:
        return ()
    width, height = request.aspect_ratio.size
    if abs(image.width - width) <= SLACK * width and abs(image.height - height) <= SLACK * height:
        return ()
    asked = f"{request.aspect_ratio.value} ({width} x {height} pixels)"
    return (f"asked for {asked}, got {image.width} x {image.height}",)
