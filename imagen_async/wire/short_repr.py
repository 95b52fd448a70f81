"""Reprs that show what is there: no empty field, and no part of a link but its host."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable


def link_repr(url: str | None) -> str:
    """Return what a repr shows of a link: its host; any other part of it may be signed."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return "'…'"
    host = parts.netloc.rpartition("@")[2]
    return repr(f"{parts.scheme}://{host[:200]}/…" if parts.scheme and host else "…")


def short_repr(self: attrs.AttrsInstance) -> str:
    """Return the repr of an attrs value: the fields that hold anything."""
    shown = [
        f"{field.name}={_repr_of(field)(value)}"
        for field in attrs.fields(type(self))
        if field.repr and not _holds_nothing(value := getattr(self, field.name))
    ]
    return f"{type(self).__name__}({', '.join(shown)})"


def _repr_of(field: attrs.Attribute[Any]) -> Callable[[Any], str]:
    return field.repr if callable(field.repr) else _plain_repr


def _plain_repr(value: object) -> str:
    return repr(str(value) if isinstance(value, enum.StrEnum) else value)


def _holds_nothing(value: object) -> bool:
    return value is None or (isinstance(value, tuple | dict) and not value)
