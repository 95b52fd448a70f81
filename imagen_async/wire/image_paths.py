"""Where the strings that hold an image, or lead to one, stand in a document."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTS = ("data", "images")
NAMES = ("b64_json", "url")

_STUB_NAME = "of the stub"
_PAIRS = json.JSONDecoder(object_pairs_hook=tuple)
_LINK = re.compile(r"https?://[^/\s]", re.IGNORECASE)


@attrs.frozen(eq=False, repr=False)
class Proof:
    """What a string of a document is.

    Args:
        name: The key that it is the value of.
        joined: It belongs to the item of the string that was proven before it.
        stub: Stands for all text up to and including it, when the next one is proven.
    """

    name: str
    joined: bool
    stub: bytes


@attrs.frozen(eq=False, repr=False)
class Place:
    """A place in a document.

    Args:
        stub: Stands for all text up to and including a proven string.
        closer: A dummy string and what ends the document after it.
        in_list: The object that holds the string is an element of a list.
        in_object: That object or list is a value of the document.
    """

    stub: bytes
    closer: bytes
    in_list: bool = False
    in_object: bool = True

    def prove(self, text: bytes) -> Proof | None:
        """Return what a string that follows the text is, None if it is no entry of this place."""
        try:
            pairs = _PAIRS.decode(_text(text + self.closer))
        except (ValueError, RecursionError):
            return None
        # the closer forces what is an object and what a list; only the names are open
        if self.in_object:
            name, pairs = pairs[-1]
            if name not in LISTS:
                return None
        item = pairs[-1] if self.in_list else pairs
        name = item[-1][0]
        return Proof(name, item[0][0] == _STUB_NAME, self.stub) if name in NAMES else None


PLACES = (
    Place(b'{"data":[{"%s":""' % _STUB_NAME.encode(), b'""}]}', in_list=True),
    Place(b'{"data":{"%s":""' % _STUB_NAME.encode(), b'""}}'),
)
"""An item in a list, and one that stands alone."""

BARE_PLACES = (*PLACES, Place(b'{"%s":""' % _STUB_NAME.encode(), b'""}', in_object=False))
"""The same, and at the top of an event."""


def holders(document: object, *, bare: bool) -> Iterator[dict[str, Any]]:
    """Yield the objects of a document that may hold an image.

    Args:
        document: What ``json.loads`` gave.
        bare: The document is an event: its image may stand at the top.
    """
    if not isinstance(document, dict):
        return
    if bare:
        yield document
    for name in LISTS:
        value = document.get(name)
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, dict):
                yield item


def is_link(text: str) -> bool:
    """Return whether a text is what a salvaged link has to be: absolute, http or https."""
    return _LINK.match(text) is not None


def loads(text: bytes) -> Any:
    """Return what ``json.loads`` makes of UTF-8, lone surrogates included."""
    return json.loads(_text(text))


def _text(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")
