"""A card: what the page shows of one image, or of one item without any."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from functools import lru_cache
from math import log
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from imagen_async.batch.own_columns import NAMES
from imagen_async.wire.image_header import RASTERS, suffix
from imagen_async.wire.request import AspectRatio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Status = Literal["done", "unknown", "failed"]
Scalar = str | int | float | bool
Card: TypeAlias = dict[str, Any]
"""Known fields of known kinds, by name; with OWN before it, the name is one of the user's columns.

Every card has a ``status`` and a ``ratio``, "" if none can be told; one whose ``source`` is True
names in ``file_name`` a picture that the page may load.
"""
OWN: Final = "in."

TEXT_LIMIT: Final = 10_000
"""Characters of one text that the page shows; the batch's lists keep the whole."""
NAME_LIMIT: Final = 60
"""Characters of the name of a user's column."""

_PICTURES: Final = frozenset({"jpeg", *(suffix(kind)[1:] for kind in RASTERS)})
_LARGEST: Final = 2**53
"""Numbers from here on are not exact in a browser."""
_NEAR: Final = log(1.1)
_USER = re.compile(r"([a-z][a-z0-9+.-]{1,20}://)[^\s/?#\"'<>]*@", re.IGNORECASE)
_QUERY = re.compile(r"([a-z][a-z0-9+.-]{1,20}://[^\s?#\"'<>]*)[?#][^\s\"'<>]*", re.IGNORECASE)
_RATIO = re.compile(r"[1-9]\d{0,2}:[1-9]\d{0,2}", re.ASCII)
# A backslash or a colon is a divider or a drive on Windows, a colon a scheme in a URL.
_ASTRAY = re.compile(r"[\\:\0\ud800-\udfff]|(?:^|/)\.{0,2}(?:/|\Z)")


def _whole(value: object) -> str | None:
    """Return a text, cut where it is too long to show; None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    if len(value) <= TEXT_LIMIT:
        return value
    more = f"{len(value) - TEXT_LIMIT:,} more characters in the batch's files"
    return f"{value[:TEXT_LIMIT]}… ({more})"


def _text(value: object) -> str | None:
    """Return a text whose links have lost what signs them: users, queries and fragments."""
    if isinstance(value, str) and len(value) <= TEXT_LIMIT and "://" not in value:
        return value or None  # nearly every one: a page asks for a million
    shown = _whole(value)
    if shown is None or "://" not in shown:
        return shown
    return _QUERY.sub(r"\1?…", _USER.sub(r"\1", shown))


def _number(value: object) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < _LARGEST else None


def scalar(value: object) -> Scalar | None:
    """Return a value that can be shown; None for any other."""
    if isinstance(value, bool):
        return value
    return _text(value) or _number(value)


_FIELDS: Final[Mapping[str, Callable[[object], Scalar | None]]] = {
    **dict.fromkeys(("file_name", "prompt"), _whole),
    **dict.fromkeys(("id", "model", "aspect_ratio", "media_type", "request_id"), _text),
    **dict.fromkeys(("width", "height", "bytes"), _number),
    "created": scalar,
}
_ERROR: Final = {
    "type": "error",
    "status": "http_status",
    **{name: name for name in ("message", "code", "charge", "idempotency_key", "request_id")},
}


def card_of(status: Status, row: Mapping[str, Any]) -> Card:
    """Return the card of a row.

    Args:
        status: Which of the three filters shows it.
        row: Of a batch's list; any field may be missing or of another kind.
    """
    card: Card = {"status": status}
    for name, value in row.items():
        if (kind := _FIELDS.get(name)) is not None:
            if (shown := kind(value)) is not None:
                card[name] = shown
        elif name and name not in NAMES and (shown := scalar(value)) is not None:
            card[OWN + name[:NAME_LIMIT]] = shown if isinstance(shown, str) else json.dumps(shown)
    if status != "done" and isinstance(error := row.get("error"), dict):
        for name, value in error.items():
            kind = _number if name == "status" else _text
            if name in _ERROR and (shown := kind(value)) is not None:
                card.setdefault(_ERROR[name], shown)
    asked: str = card.get("aspect_ratio", "")
    size = (card.get("width", 0), card.get("height", 0))
    card["ratio"] = asked if _RATIO.fullmatch(asked) else ratio_of(*size)
    if is_picture(card.get("file_name", "")):
        card["source"] = True
    return card


def is_picture(file_name: str) -> bool:
    """Return whether a path names a raster image inside a folder; others a browser would run.

    Args:
        file_name: Relative to the folder, its parts divided by ``/``.
    """
    return file_name.rpartition(".")[2].lower() in _PICTURES and not _ASTRAY.search(file_name)


@lru_cache(maxsize=1024)
def ratio_of(width: float, height: float) -> str:
    """Return the ratio nearest to a size: one that can be asked for if it is near, else any.

    Args:
        width: In pixels; 0 if it is not known.
        height: In pixels; 0 if it is not known.
    """
    if not (width >= 1 and height >= 1):
        return ""
    known = {str(each): float(Fraction(each.replace(":", "/"))) for each in AspectRatio}
    distance, nearest = min((abs(log(width / height / part)), n) for n, part in known.items())
    if distance < _NEAR:
        return nearest
    upright = height > width
    short = Fraction(max(width, height) / min(width, height)).limit_denominator(4)
    pair = (short.numerator, short.denominator)
    return ":".join(map(str, reversed(pair) if upright else pair))
