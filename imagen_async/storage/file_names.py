"""File names made of a prompt: one safe path component on every system."""

from __future__ import annotations

import re
import unicodedata

NAME_LIMIT = 150
"""UTF-8 bytes of a whole name: file systems take 255, and a user may add to it."""
SLUG_LIMIT = 60
"""UTF-8 bytes of a prompt in a name: enough to tell two pictures apart in a listing."""

_KEPT_MARKS = "._"
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0]")
# Letters and marks that show as nothing (Unicode's Default_Ignorable_Code_Point outside Cf).
_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])(?:\.|$)", re.IGNORECASE
)
# Device names of Windows, whatever follows their first dot: learn.microsoft.com, "Naming Files".


def slug(text: str, limit_bytes: int = SLUG_LIMIT) -> str:
    """Return a text as part of a file name.

    Letters, marks and digits of every script stay; whatever else stands between them becomes one
    hyphen. So nothing is left that a shell, a URL, a terminal or a file system reads as its own.

    Args:
        text: Any text, lone surrogates included.
        limit_bytes: The most UTF-8 bytes of it, 5 or more; no character is cut in two.

    Returns:
        The text in Unicode form NFC; ``image`` if nothing of it is left.
    """
    # A character of a name has at least one byte: what lies far behind the limit cannot matter
    # but by being dropped, and a prompt may be a megabyte.
    head = unicodedata.normalize("NFC", text[: limit_bytes * 16])
    seen = _UNSEEN.sub("", head.translate(_KEPT))
    words = "-".join(filter(None, seen.split("-")))
    name = _cut(unicodedata.normalize("NFC", words).lstrip("-."), limit_bytes)
    if _RESERVED.match(name):
        name = _cut(f"_{name}", limit_bytes)
    return name or "image"


def file_name(stem: str, digest: str, number: int | None, suffix: str) -> str:
    """Return the name of an image's file: ``<stem>-<digest>[-<number>]<suffix>``.

    Args:
        stem: The prompt, or any other text, of which a slug is made.
        digest: Hexadecimal digits that tell one item from every other.
        number: Which image of the item, or None if it is the only one.
        suffix: With its dot, such as ``.png``.

    Returns:
        One path component of at most 150 UTF-8 bytes.
    """
    tail = f"-{digest}{'' if number is None else f'-{number}'}{suffix}"
    return slug(stem, min(SLUG_LIMIT, NAME_LIMIT - len(tail.encode()))) + tail


class _Kept(dict[int, str]):
    """What is left of each character, found out once."""

    def __missing__(self, point: int) -> str:
        character = chr(point)
        kind = unicodedata.category(character)[0]
        if character in _KEPT_MARKS or kind in "LNM":
            kept = character
        else:
            # Controls, bidi marks and zero-width characters do not part words; all others do.
            kept = "" if kind == "C" and not character.isspace() else "-"
        self[point] = kept
        return kept


_KEPT = _Kept()


def _cut(text: str, limit_bytes: int) -> str:
    return text.encode()[:limit_bytes].decode("utf-8", "ignore").rstrip("-. ")
