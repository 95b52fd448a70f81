"""The document of an answer, tolerantly read into values."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.wire.decoder import AnswerError, AnswerLimits, Embedded
from imagen_async.wire.short_repr import link_repr

if TYPE_CHECKING:
    from collections.abc import Callable

_LISTS = ("data", "images")
_OWN = frozenset({"created", *_LISTS})
_LATEST = 253_402_300_799  # the last second of the year 9999
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?", re.ASCII)
_MOST_PROBLEMS = 20
_MOST = AnswerLimits().max_images


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
    if not isinstance(document, dict):
        raise AnswerError("the answer is JSON but not an object")
    items: list[Item] = []
    problems: list[str] = []
    for name in _LISTS:
        value = document.get(name)
        if value:
            _read_items(value if isinstance(value, list) else [value], items, problems)
    # each link is a download; the number of images is bounded already
    kept = [item for place, item in enumerate(items) if place < _MOST or item.embedded]
    if len(kept) < len(items):
        problems.insert(0, f"{len(items) - len(kept)} links over the number of images")
    if len(problems) > _MOST_PROBLEMS:
        problems[_MOST_PROBLEMS:] = [f"and {len(problems) - _MOST_PROBLEMS} more like these"]
    return Answer(
        _seconds(document.get("created")),
        tuple(kept),
        {name: document[name] for name in document if name not in _OWN},
        tuple(problems),
    )


def _read_items(values: list[Any], items: list[Item], problems: list[str]) -> None:
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            problems.append(f"item {number} is not an object")
            continue
        item = structurer()(value, Item)
        if item.embedded.problem if item.embedded else not item.url:
            item = _second_look(item, value, number, problems)
        if item.url or item.embedded:
            items.append(item)
        elif not problems or not problems[-1].startswith(f"item {number} "):
            problems.append(f"item {number} holds no image")


def _second_look(item: Item, value: dict[str, Any], number: int, problems: list[str]) -> Item:
    """Return the item without a spoiled image, and with one that stood in the stead of a link."""
    for embedded in (item.embedded, value.get("url")):
        if not isinstance(embedded, Embedded):
            continue
        if not embedded.problem:
            return attrs.evolve(item, embedded=embedded)
        problems.append(f"item {number} is spoiled: {embedded.problem}")
    if not isinstance(value.get("url"), str | Embedded | None):
        problems.append(f"item {number} has a url that is not text")
    return item if item.embedded is None else attrs.evolve(item, embedded=None)


def _text(value: Any, _: Any) -> str | None:
    return value if type(value) is str and value else None


def _embedded(value: Any, _: Any) -> Embedded | None:
    return value if type(value) is Embedded else None


def _seconds(value: object) -> int | None:
    """Return Unix seconds from a number or its text; None from anything else."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        return None
    return math.floor(value)


@cache
def structurer() -> Callable[[dict[str, Any], type[Item]], Item]:
    """Return what makes an Item of a dict; the first call imports cattrs."""
    # Not with this module: cattrs takes a tenth of the time that aiohttp does.
    from cattrs import Converter
    from cattrs.gen import make_dict_structure_fn, override

    return make_dict_structure_fn(
        Item,
        Converter(detailed_validation=False),
        url=override(struct_hook=_text),
        embedded=override(rename="b64_json", struct_hook=_embedded),
        revised_prompt=override(struct_hook=_text),
    )
