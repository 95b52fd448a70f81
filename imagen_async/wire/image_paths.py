"""What an image looks like in a document, and a walk that finds it wherever it stands.

A string is an image if its name says so, or if it begins as one: with ``data:...;base64,``, or
with the base64 of the first bytes of a known format.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from imagen_async.wire.base64_stream import Embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORTEST = 64
"""Characters of an image that is not named as one: a shorter text may be anything."""
LISTS = ("data", "images")
NAMES = ("b64_json", "url")
_LINK_NAMES = ("url", "image_url", "imageUrl", "image")
BYTES_NAMES = ("b64_json", "image_base64", "bytesBase64Encoded", "base64", "b64")

# PNG, JPEG, GIF, WebP, AVIF and its kin; JSON may write a slash with a backslash.
_FIRST_LETTERS = r"iVBORw0KGgo|\\?/9j\\?/|R0lGOD[dl]h|UklGR[^\"]{7,9}RUJQ|AAAA[^\"]{2,3}Z0eXB"
_PREFIX = r"[dD][aA][tT][aA]:[^\",]{0,200};[bB][aA][sS][eE]64,"
BEGINNING = f"{_PREFIX}|{_FIRST_LETTERS}"
"""A pattern of how an image's string begins, in JSON's own spelling too."""
_IMAGE = re.compile(rf"{_PREFIX}|(?={_FIRST_LETTERS})[A-Za-z0-9+/=_\s-]{{64,}}\Z")
_BASE64 = re.compile(r"[A-Za-z0-9+/=_\s-]{64,}")
_MAY_BE_IMAGE = re.compile(rf'"(?:[dD][aA][tT][aA]:|[A-Za-z0-9+/=_-]{{{SHORTEST}}})')
_LINK = re.compile(r"https?://[^/\s]", re.IGNORECASE)


def is_image(name: object, text: str) -> bool:
    """Return whether a text of a document is an image's base64.

    Args:
        name: Its key, or its place in a list.
        text: Of any length.
    """
    if name == "b64_json" or (name == "url" and text[:5].lower() == "data:"):
        return bool(text)
    if len(text) < SHORTEST:
        return False
    form = _BASE64.fullmatch if name in BYTES_NAMES else _IMAGE.match
    return form(text) is not None


def may_hold_image(text: str) -> bool:
    """Return whether a document's text has to be searched; most links and errors need not be."""
    return "b64_json" in text or "\\" in text or _MAY_BE_IMAGE.search(text) is not None


def leaves(root: list[Any] | dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the holder, the name and the value of all that is no object and no list."""
    holders: list[Any] = [root]
    for holder in holders:
        for name, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if type(value) is dict or type(value) is list:
                if value:
                    holders.append(value)
            else:
                yield holder, name, value


def items_of(document: object) -> Iterator[Any]:
    """Yield what stands where a document has its items: in a list, or alone."""
    for name in LISTS:
        value = document.get(name) if isinstance(document, dict) else None
        yield from value if isinstance(value, list) else (value,) if value else ()


def links_of(item: Any) -> list[str]:
    """Return the links of an item: a text, or what it calls one, maybe in a list or an object."""
    if not isinstance(item, dict):
        return [item] if isinstance(item, str) and is_link(item) else []
    found: Any = next(filter(None, (item.get(name) for name in _LINK_NAMES)), None)
    found = found.get("url") if isinstance(found, dict) else found
    links = found if isinstance(found, list) else [found]
    return [link for link in links if isinstance(link, str) and link]


def is_link(text: str) -> bool:
    """Return whether a text is what a salvaged link has to be: absolute, http or https."""
    return _LINK.match(text) is not None


def worth(document: object) -> list[Embedded | str]:
    """Return the whole images of a document; of an item without one its link."""
    found: list[Embedded | str] = []
    for item in [*items_of(document)] or [document]:
        url = item.get("url") if isinstance(item, dict) else None
        link = [url] if isinstance(url, str) and is_link(url) else []
        found += [image for image in images_in(item) if image.sink is not None] or link
    known = {id(image) for image in found}
    rest = (image for image in images_in(document) if id(image) not in known)
    return found + [image for image in rest if image.sink is not None]


def images_in(document: object) -> Iterator[Embedded]:
    """Yield the images of a document, or of a part of one, the spoiled ones too."""
    for _, _, value in leaves([document]):
        if isinstance(value, Embedded):
            yield value
