"""What is worth keeping of the bytes that stand for an image: all that is paid for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from imagen_async.wire.image_header import UNKNOWN, Media, inspect, suffix

if TYPE_CHECKING:
    from imagen_async.wire.image_header import Buffer

CUT = ".cut"
"""Stands before the suffix of what came of an image that ended too early."""

_HEAD = 1024
_BINARY = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
_PAGES = (
    (("<!doctype html", "<html", "<head", "<body"), "an HTML page"),
    (("<?xml", "<"), "an XML document"),
    (("{", "["), "a JSON document"),
)


@attrs.frozen(eq=False, repr=False)
class Finding:
    """What bytes are.

    Args:
        media: Their type, and their size in pixels where a page may trust it.
        ending: How the name of their file ends.
        note: What is odd about them, or why they are not kept, one line.
        cut: Whether they begin as an image and end too early.
        kept: Whether they are worth a file.
    """

    media: Media
    ending: str
    note: str | None = None
    cut: bool = False
    kept: bool = True


def look(data: Buffer, *, linked: bool) -> Finding:
    """Tell what the bytes of one image are.

    Args:
        data: All of them, in memory or mapped.
        linked: Whether they came from a link, which may lead to an error's text instead, and
            where what was cut can be had again.
    """
    head, media = bytes(data[:_HEAD]), inspect(data)
    ending = suffix(media.media_type)
    if not head:
        return Finding(media, ending, "it is empty", kept=False)
    if media.problem is not None:  # no page and no decoder is to be led to it by its type
        unknown = suffix(UNKNOWN)
        return Finding(Media(), unknown, f"it {media.problem}: kept as {unknown}")
    if media.raster and not media.complete:
        note = f"the {media.media_type} is cut short"
        if linked:
            return Finding(media, ending, note, cut=True, kept=False)
        return Finding(media, CUT + ending, f"{note}: kept as it came", cut=True)
    if media.raster:
        return Finding(media, ending)
    if linked and media.media_type == UNKNOWN and not _BINARY.search(head):
        return Finding(media, ending, f"{_kind(head)} came instead of an image", kept=False)
    return Finding(media, ending, f"not a raster image that can be checked: kept as {ending}")


def _kind(head: bytes) -> str:
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n").lower()
    return next((kind for starts, kind in _PAGES if text.startswith(starts)), "a text")
