"""The cards as the page loads them: by columns, in scripts of bounded size."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import attrs

from imagen_async.batch.gallery.card import Card
from imagen_async.storage import disk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROWS_PER_PAGE: Final = 1000
PAGE_CHARACTERS: Final = 2 << 20
"""A page is closed at either bound, so memory does not grow with cards nor with prompts."""

RATIO_LIMIT: Final = 12
"""Ratios that get a filter of their own; a batch may hold any."""
OTHER: Final = "other"
COLUMN_LIMIT: Final = 16
"""The user's columns that the page shows: those met first."""
VALUE_LIMIT: Final = 24
"""Distinct values of a user's column up to which it is a filter."""

_FIELDS: Final = tuple(field.name for field in attrs.fields(Card) if field.name != "columns")


def script_json(value: object) -> str:
    """Return a value as JSON that is also safe inside a script element and a script file.

    ASCII alone, so neither a charset nor U+2028 can change what it means; no ``<``, ``>``
    or ``&``, so no text in it can end the element or open a comment.

    Args:
        value: Anything JSON can hold.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def packed(values: Sequence[Any]) -> object:
    """Return a column: its values, or ``of`` and ``at`` where few values come again and again.

    Args:
        values: JSON scalars, one for each card; None where a card has none.
    """
    # By kind as well: True and 1 are equal in Python and are not the same to a reader.
    places = {key: at for at, key in enumerate(dict.fromkeys((type(v), v) for v in values))}
    if len(places) * 4 > len(values) > 1:
        return values
    of = [value for _, value in places]
    return {"of": of, "at": [places[type(v), v] for v in values] if len(of) > 1 else []}


@attrs.define
class CardTable:
    """Cards by columns, until they are taken, and what all of them count."""

    counts: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    columns: dict[str, Counter[str]] = attrs.field(factory=dict)
    _rows: list[dict[str, object]] = attrs.field(factory=list)
    _size: int = 0
    _ratios: set[str] = attrs.field(factory=set)

    def add(self, card: Card) -> None:
        """Count a card and keep it."""
        ratio = card.ratio or ""
        if ratio and ratio not in self._ratios and len(self._ratios) >= RATIO_LIMIT:
            ratio = OTHER
        self._ratios.add(ratio)
        self.counts[card.status, ratio] += 1
        fields = {name: value for name in _FIELDS if (value := getattr(card, name)) is not None}
        row = {**fields, "ratio": ratio, "source": _source(card), **self._own(card)}
        self._rows.append(row)
        self._size += sum(len(v) if isinstance(v, str) else 8 for v in row.values())

    def take(self) -> dict[str, object] | None:
        """Return the cards that were added since the last time, as the page takes them."""
        if not self._rows:
            return None
        names = dict.fromkeys(name for row in self._rows for name in row)
        table = {name: packed([row.get(name) for row in self._rows]) for name in names}
        taken: dict[str, object] = {"rows": len(self._rows), "columns": table}
        self._rows.clear()
        self._size = 0
        return taken

    def facets(self) -> dict[str, dict[str, int] | None]:
        """Return the user's columns, each with its values if they are few enough to choose from."""
        few = {name: 1 < len(found) <= VALUE_LIMIT for name, found in self.columns.items()}
        return {name: dict(self.columns[name]) if few[name] else None for name in self.columns}

    def _own(self, card: Card) -> dict[str, str]:
        """Count the values of the user's columns and return them by their names in the page."""
        found: dict[str, str] = {}
        for name, value in card.columns.items():
            if name not in self.columns and len(self.columns) >= COLUMN_LIMIT:
                continue
            counts = self.columns.setdefault(name, Counter())
            text = value if isinstance(value, str) else json.dumps(value)
            if len(counts) <= VALUE_LIMIT:
                counts[text] += 1
            found[f"in.{name}"] = text
        return found


@attrs.define
class CardPages(CardTable):
    """The scripts that hold the cards, written as they fill up.

    Args:
        folder: Where the scripts go.
    """

    folder: Path = attrs.field(kw_only=True)
    digest: Any = attrs.field(factory=hashlib.sha256)
    names: list[str] = attrs.field(factory=list)

    def add(self, card: Card) -> None:
        """Count a card and write the page that it fills."""
        CardTable.add(self, card)
        if len(self._rows) >= ROWS_PER_PAGE or self._size >= PAGE_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write the page that is being filled, if it holds anything."""
        page = self.take()
        if page is None:
            return
        # Parsed as JSON, not as a program: quicker, and no value becomes a constant of the script.
        quoted = script_json(page).replace("\\", "\\\\").replace("'", "\\'")
        script = f"gallery.page(JSON.parse('{quoted}'));\n".encode("ascii")
        self.names.append(f"page-{len(self.names) + 1:04}.js")
        with disk.open_private(self.folder / self.names[-1], "wb") as file:
            file.write(script)
        self.digest.update(script)


def _source(card: Card) -> str | bool | None:
    """Return an image's URL, True where the page can make it of the file's name by itself."""
    source = card.source
    try:
        return source and bool((card.file_name or "").encode())
    except UnicodeEncodeError:
        return source
