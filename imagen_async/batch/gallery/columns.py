"""The cards as the page loads them: by columns, in scripts of bounded size."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

import attrs

from imagen_async.batch.gallery.card import OWN
from imagen_async.storage import disk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imagen_async.batch.gallery.card import Card

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
        values: Texts, or numbers, one for each card; None where a card has none.
    """
    places = {value: at for at, value in enumerate(dict.fromkeys(values))}
    if len(places) * 4 > len(values) > 1:
        return values
    return {"of": [*places], "at": [places[v] for v in values] if len(places) > 1 else []}


@attrs.define
class CardTable:
    """Cards by columns, until they are taken, and what all of them count.

    Args:
        folder: Where the cards are written as scripts that the page loads, whenever they fill one.
    """

    folder: Path | None = None
    counts: defaultdict[str, Counter[str]] = attrs.field(factory=lambda: defaultdict(Counter))
    columns: dict[str, Counter[str]] = attrs.field(factory=dict)
    names: list[str] = attrs.field(factory=list)
    _rows: list[Card] = attrs.field(factory=list)
    _size: int = 0
    _ratios: set[str] = attrs.field(factory=set)
    _digest: Any = attrs.field(factory=hashlib.sha256)

    @property
    def home(self) -> str:
        """The name of the folder that the scripts belong into: it tells what they hold."""
        digest: str = self._digest.hexdigest()
        return digest[:16]

    @property
    def addresses(self) -> list[str]:
        """The scripts, relative to the page."""
        return [f"gallery/{self.home}/{name}" for name in self.names]

    def add(self, card: Card) -> None:
        """Count a card and keep it."""
        ratio: str = card["ratio"]
        if ratio and ratio not in self._ratios and len(self._ratios) >= RATIO_LIMIT:
            ratio = card["ratio"] = OTHER
        self._ratios.add(ratio)
        self.counts[card["status"]][ratio] += 1
        for name in [name for name in card if name.startswith(OWN)]:
            self._count(card, name)
        self._rows.append(card)
        self._size += sum([len(value) for value in card.values() if isinstance(value, str)])
        if len(self._rows) >= ROWS_PER_PAGE or self._size >= PAGE_CHARACTERS:
            self.flush()

    def _count(self, card: Card, name: str) -> None:
        """Count the value of a user's column, or leave the column out if there are too many."""
        if name not in self.columns and len(self.columns) >= COLUMN_LIMIT:
            del card[name]
            return
        counts = self.columns.setdefault(name, Counter())
        if len(counts) <= VALUE_LIMIT:
            counts[card[name]] += 1

    def take(self) -> list[object]:
        """Return the cards that were added since the last time, as the page takes them."""
        if not self._rows:
            return []
        names = dict.fromkeys(name for row in self._rows for name in row)
        table = {name: packed([row.get(name) for row in self._rows]) for name in names}
        taken: dict[str, object] = {"rows": len(self._rows), "columns": table}
        self._rows.clear()
        self._size = 0
        return [taken]

    def facets(self) -> dict[str, dict[str, int] | None]:
        """Return the user's columns, each with its values if they are few enough to choose from."""
        return {
            name.removeprefix(OWN): dict(found) if 1 < len(found) <= VALUE_LIMIT else None
            for name, found in self.columns.items()
        }

    def flush(self) -> None:
        """Write the cards that wait, if they are to be written."""
        if self.folder is None:
            return
        for page in self.take():
            # Parsed as JSON, not as a program: quicker, and no value becomes a constant.
            quoted = script_json(page).replace("\\", "\\\\").replace("'", "\\'")
            script = f"gallery.page(JSON.parse('{quoted}'));\n".encode("ascii")
            self.names.append(f"page-{len(self.names) + 1:04}.js")
            with disk.open_private(self.folder / self.names[-1], "wb") as file:
                file.write(script)
            self._digest.update(script)
