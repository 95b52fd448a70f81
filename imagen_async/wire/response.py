"""The document of an answer, tolerantly read into values."""

from __future__ import annotations

import math
import re
from itertools import zip_longest
from typing import Any

import attrs

from imagen_async.wire.decoder import AnswerError, AnswerLimits, Embedded
from imagen_async.wire.image_paths import LISTS, images_in, items_of, links_of
from imagen_async.wire.short_repr import link_repr

_OWN = frozenset({"created", *LISTS})
_LATEST = 253_402_300_799  # the last second of the year 9999
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?", re.ASCII)
_MOST_PROBLEMS = 20
_MOST = AnswerLimits().max_images
NAMELESS = "images came that no item names"
"""A note on images outside of any item."""


@attrs.frozen
class Item:
    """One item of an answer: it has a link, a whole image, or both.

    Args:
        url: The link; it may be signed, and it may be anything that a gateway calls one.
        embedded: The whole image that came inside the answer; it goes before the link.
        revised_prompt: The prompt as the gateway changed it.
    """

    url: str | None = attrs.field(default=None, repr=link_repr)
    embedded: Embedded | None = None
    revised_prompt: str | None = None


@attrs.frozen
class Answer:
    """What a document says, whatever its dialect.

    Args:
        created: Unix seconds; None if the gateway told no usable number.
        items: The items that can be used, in their order.
        extras: Other fields of the document, such as ``usage``.
        problems: Notes on the items that cannot, counted from 1; without any foreign words.
    """

    created: int | None = None
    items: tuple[Item, ...] = ()
    extras: dict[str, Any] = attrs.field(factory=dict)
    problems: tuple[str, ...] = ()


def structure_answer(document: object) -> Answer:
    """Read a decoded document, whatever its dialect.

    Args:
        document: What ``AnswerDecoder.finish`` returned.

    Returns:
        The answer; items that cannot be used are left out and noted in its problems.

    Raises:
        AnswerError: The document is not an object.
    """
    if isinstance(document, list | Embedded):
        document = {"data": document}
    if not isinstance(document, dict):
        raise AnswerError("the answer is JSON but not an object")
    items: list[Item] = []
    problems: list[str] = []
    for number, value in enumerate(items_of(document), start=1):
        _read_item(value, number, items, problems)
    extras = {name: document[name] for name in document if name not in _OWN}
    if items and (others := [image for image in images_in(extras) if not image.problem]):
        items += [Item(embedded=image) for image in others]
        extras = {name: extras[name] for name in extras if not any(images_in(extras[name]))}
        problems.append(NAMELESS)
    # each link is a download; the number of images is bounded already
    kept = [item for place, item in enumerate(items) if place < _MOST or item.embedded]
    if len(kept) < len(items):
        problems.insert(0, f"{len(items) - len(kept)} links over the number of images")
    if len(problems) > _MOST_PROBLEMS:
        problems[_MOST_PROBLEMS:] = [f"and {len(problems) - _MOST_PROBLEMS} more like these"]
    return Answer(
        _seconds(document.get("created")),
        tuple(kept),
        extras,
        tuple(problems),
    )


def _read_item(value: object, number: int, items: list[Item], problems: list[str]) -> None:
    """Add an item for each image, whatever it is called, and for each link beside them."""
    fields: dict[str, Any] = value if isinstance(value, dict) else {}
    url, prompt = fields.get("url"), fields.get("revised_prompt")
    images = list(images_in(value))
    if isinstance(url, Embedded) and getattr(fields.get("b64_json"), "sink", None) is not None:
        images.remove(url)  # the same image once more
    spoiled = [f"item {number} is spoiled: {image.problem}" for image in images if image.problem]
    problems += spoiled
    whole = [image for image in images if not image.problem]
    links = links_of(value)
    prompt = prompt if isinstance(prompt, str) and prompt else None
    items += (Item(link, image, prompt) for link, image in zip_longest(links, whole))
    if not (whole or links or spoiled):
        problem = "has a url that is not text" if url else "holds no image"
        problems.append(f"item {number} {problem if fields or value == {} else 'is not an object'}")


def _seconds(value: object) -> int | None:
    """Return Unix seconds from a number or its text; None from anything else."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        return None
    return math.floor(value)
