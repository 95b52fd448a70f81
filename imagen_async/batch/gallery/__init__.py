"""The gallery: one page over a batch's folder, made of its cards alone.

The page is plain files, opened from disk or served: no library, no network, nothing built.
``index.html`` carries the style and the script of ``page/`` inline; the cards lie in classic
scripts beside it, ``gallery/<hash>/page-0001.js``, since a page from disk may load scripts but
fetch no JSON. The hash names the cards' content, so ``index.html``, replaced last, always fits
the cards it names.

``views`` turns what a batch keeps into cards; everything else knows cards alone.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final

from imagen_async.batch.gallery import views
from imagen_async.batch.gallery.columns import CardTable
from imagen_async.batch.gallery.document import document
from imagen_async.storage import disk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imagen_async.batch.gallery.card import Card
    from imagen_async.batch.gallery.views import About

INDEX: Final = "index.html"
_PART: Final = ".part-"
_ABANDONED: Final = 3600.0


def write_gallery(folder: Path, *, ended: bool = True) -> Path:
    """Write the gallery of a batch's folder, replacing an older one in one step.

    The batch's lists are read as a stream, and junk lines are left out. Nothing outside
    ``index.html`` and ``gallery/`` is written, and no image is opened.

    Args:
        folder: The batch's folder, with ``metadata.jsonl`` and its sisters.
        ended: Whether the run is known to have come to its end; else the journal is asked for
            what a run that was killed left in doubt.

    Returns:
        The path of ``index.html``, ready to be opened in a browser.

    Raises:
        ConfigurationError: ``folder`` holds no list of a batch.
        OSError: The folder cannot be read or written.
    """
    views.check(folder)
    doubts = views.NO_DOUBTS if ended else views.in_doubt(folder)
    write_page(folder, views.cards(folder, doubts), views.about(folder, doubts))
    return folder / INDEX


def write_page(folder: Path, cards: Iterable[Card], about: About) -> CardTable:
    """Write ``index.html`` and what it loads, of any cards, in the order in which they come.

    Args:
        folder: Where to, and what the cards' file names are relative to.
        cards: Taken one by one: memory does not grow with their number.
        about: What the page says of the whole.

    Returns:
        What it loads, for ``write_index``.

    Raises:
        OSError: The folder cannot be written.
    """
    home = folder / "gallery"
    home.mkdir(exist_ok=True)
    with _scratch(home) as part:
        pages = CardTable(folder=part)
        for card in cards:
            pages.add(card)
        pages.flush()
        (home / pages.home).mkdir(exist_ok=True)
        for name in pages.names:
            (part / name).replace(home / pages.home / name)
    write_index(folder, about, pages)
    _sweep(home, keep=pages.home)
    return pages


def write_index(folder: Path, about: About, pages: CardTable) -> None:
    """Replace ``index.html`` alone, in one step; what it loads is there.

    Raises:
        OSError: The folder cannot be written.
    """
    with _scratch(folder / "gallery") as part:
        with disk.open_private(part / INDEX, "wb") as file:
            file.write(document(about, pages).encode())
        (part / INDEX).replace(folder / INDEX)


@contextmanager
def _scratch(home: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=_PART, dir=home, ignore_cleanup_errors=True) as part:
        yield Path(part)


def _sweep(home: Path, keep: str) -> None:
    """Remove the pages of earlier galleries, and what a killed writer left an hour ago."""
    for entry in home.iterdir():
        left = entry.name.startswith(_PART) and time() - entry.stat().st_mtime > _ABANDONED
        if left or (re.fullmatch(r"[0-9a-f]{16}", entry.name) and entry.name != keep):
            shutil.rmtree(entry, ignore_errors=True)
