"""What the page shows of one image or one item without any: known fields of known kinds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from math import log
from typing import Final, Literal
from urllib.parse import quote

import attrs

from imagen_async.wire.image_header import RASTERS, suffix
from imagen_async.wire.request import AspectRatio

Status = Literal["done", "unknown", "failed"]
Scalar = str | int | float | bool

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
    shown = _whole(value)
    if shown is None or "://" not in shown:
        return shown
    return _QUERY.sub(r"\1?…", _USER.sub(r"\1", shown))


def _number(value: object) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < _LARGEST else None


def _moment(value: object) -> str | int | float | None:
    return _text(value) or _number(value)


def scalars(columns: object) -> dict[str, Scalar]:
    """Return those values of a mapping that can be shown, by name; of anything else nothing."""
    found: dict[str, Scalar] = {}
    for name, value in columns.items() if isinstance(columns, Mapping) else ():
        shown = value if isinstance(value, bool) else _moment(value)
        if isinstance(name, str) and name and shown is not None:
            found[name[:NAME_LIMIT]] = shown
    return found


@attrs.frozen(kw_only=True)
class Card:
    """One tile of the page. Any value may be given: one that cannot be shown becomes None.

    Args:
        status: Which of the three filters shows it.
        file_name: The image's path in the folder, its parts divided by ``/``.
        prompt: As the user wrote it; its links are left as they are.
        id: The user's own name of the row.
        model: As asked.
        aspect_ratio: As asked.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        media_type: Of the image.
        bytes: Of the image's file.
        created: Unix seconds, or a time in ISO 8601.
        request_id: The gateway's.
        error: The type of what went wrong.
        message: What went wrong, in words.
        http_status: Of the answer.
        code: The gateway's own.
        charge: ``no``, ``maybe`` or ``yes``.
        idempotency_key: What the last attempts carried.
        columns: The user's own columns: texts, numbers and booleans by name.
    """

    status: Status
    file_name: str | None = attrs.field(converter=_whole, default=None)
    prompt: str | None = attrs.field(converter=_whole, default=None)
    id: str | None = attrs.field(converter=_text, default=None)
    model: str | None = attrs.field(converter=_text, default=None)
    aspect_ratio: str | None = attrs.field(converter=_text, default=None)
    width: int | float | None = attrs.field(converter=_number, default=None)
    height: int | float | None = attrs.field(converter=_number, default=None)
    media_type: str | None = attrs.field(converter=_text, default=None)
    bytes: int | float | None = attrs.field(converter=_number, default=None)
    created: str | int | float | None = attrs.field(converter=_moment, default=None)
    request_id: str | None = attrs.field(converter=_text, default=None)
    error: str | None = attrs.field(converter=_text, default=None)
    message: str | None = attrs.field(converter=_text, default=None)
    http_status: int | float | None = attrs.field(converter=_number, default=None)
    code: str | None = attrs.field(converter=_text, default=None)
    charge: str | None = attrs.field(converter=_text, default=None)
    idempotency_key: str | None = attrs.field(converter=_text, default=None)
    columns: Mapping[str, Scalar] = attrs.field(converter=scalars, factory=dict)

    @property
    def source(self) -> str | None:
        """The image's URL; None if it is no raster image: a browser would run what it holds."""
        name = self.file_name or ""
        return source_of(name) if name.rpartition(".")[2].lower() in _PICTURES else None

    @property
    def ratio(self) -> str | None:
        """The ratio by which the page filters: the one asked for, else that of the pixels."""
        asked = self.aspect_ratio or ""
        if re.fullmatch(r"[1-9]\d{0,2}:[1-9]\d{0,2}", asked, re.ASCII):
            return asked
        return ratio_of(self.width or 0, self.height or 0)


def source_of(file_name: str) -> str | None:
    """Return a file's relative URL, or None unless it names a place inside the folder.

    Args:
        file_name: Relative, its parts divided by ``/``.
    """
    parts = file_name.split("/")
    # A backslash or a colon is a divider or a drive on Windows, a colon a scheme in a URL.
    if any(part in {"", ".", ".."} for part in parts) or re.search(r"[\\:\0]", file_name):
        return None
    try:
        return "/".join(quote(part.encode("utf-8", "surrogateescape"), safe="") for part in parts)
    except UnicodeEncodeError:
        return None


@lru_cache(maxsize=1024)
def ratio_of(width: float, height: float) -> str | None:
    """Return the ratio nearest to a size: one that can be asked for if it is near, else any.

    Args:
        width: In pixels; 0 if it is not known.
        height: In pixels; 0 if it is not known.
    """
    if not (width >= 1 and height >= 1):
        return None
    known = {str(each): float(Fraction(each.replace(":", "/"))) for each in AspectRatio}
    distance, nearest = min((abs(log(width / height / part)), n) for n, part in known.items())
    if distance < _NEAR:
        return nearest
    upright = height > width
    short = Fraction(max(width, height) / min(width, height)).limit_denominator(4)
    pair = (short.numerator, short.denominator)
    return ":".join(map(str, reversed(pair) if upright else pair))
