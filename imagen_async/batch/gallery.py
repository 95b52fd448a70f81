"""The gallery: one page over a batch's folder, made of its views alone.

The page is plain files, opened from disk: no server, no network, no library. ``index.html``
carries the style and the script of ``page/`` inline; the rows lie in classic scripts beside it,
``gallery/<hash>/page-0001.js``, since a page from disk may load scripts but fetch no JSON. The
hash names the rows' content, so ``index.html``, replaced last, always fits the rows it names.

The policy is the strictest that Chromium and Firefox load from disk: images of the same origin
(to which both count ``file:``), the inline style and script by their hashes, and further
scripts only when that script appends them (``strict-dynamic``). Text that became markup could
thus run nothing, and Trusted Types let no text become markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import tempfile
from collections import Counter
from functools import partial
from importlib.resources import files
from math import log
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final, TypeGuard
from urllib.parse import quote

import attrs

from imagen_async.errors import ConfigurationError
from imagen_async.storage import disk
from imagen_async.wire.image_header import RASTERS, suffix
from imagen_async.wire.request import AspectRatio
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from importlib.resources.abc import Traversable

ROWS_PER_PAGE: Final = 500
PAGE_CHARACTERS: Final = 2 << 20
"""A page is closed at either bound, so memory does not grow with rows nor with prompts."""

TEXT_LIMIT: Final = 10_000
"""Characters of one text that the page shows; the views keep the whole."""

LINE_LIMIT: Final = 64 << 20
"""Bytes of one row; a longer line is junk."""

RATIO_LIMIT: Final = 12
"""Ratios that get a filter of their own; ``extra`` may bring any."""

VIEWS: Final = {
    "done": "metadata.jsonl",
    "unknown": "unknown.jsonl",
    "failed": "failed.jsonl",
}
"""Status -> the batch's view of its rows, in the order in which the page shows them."""

_TEXTS = ("id", "prompt", "model", "aspect_ratio", "media_type", "request_id", "created")
_NUMBERS = ("width", "height", "bytes", "created")
_ERROR_TEXTS = ("type", "message", "code", "charge", "idempotency_key", "request_id")
_STYLES = ("style.css", "lightbox.css")
_SCRIPTS = ("text.js", "layout.js", "rows.js", "grid.js", "lightbox.js", "main.js")
_OTHER = "other"
_PICTURES = frozenset({"jpeg", *(suffix(kind)[1:] for kind in RASTERS)})
_PART = ".part-"
_ABANDONED = 3600.0
_LARGEST = 2**53
"""Numbers from here on are not exact in a browser."""

Row = dict[str, Any]


def write_gallery(folder: Path) -> Path:
    """Write the gallery of a batch's folder, replacing an older one in one step.

    The views are read as a stream, and junk lines are left out. Nothing outside
    ``index.html`` and ``gallery/`` is written, and no image is opened.

    Args:
        folder: The batch's folder, with ``metadata.jsonl`` and its sisters.

    Returns:
        The path of ``index.html``, ready to be opened in a browser.

    Raises:
        ConfigurationError: ``folder`` holds no view of a batch.
        OSError: The folder cannot be read or written.
    """
    if not any((folder / name).is_file() for name in VIEWS.values()):
        shown = printable(str(folder), 300)
        raise ConfigurationError(f"{shown} holds no batch; name the folder that a batch wrote.")
    home = folder / "gallery"
    home.mkdir(exist_ok=True)
    index = folder / "index.html"
    with tempfile.TemporaryDirectory(prefix=_PART, dir=home, ignore_cleanup_errors=True) as part:
        written = _Pages(Path(part))
        for status, name in VIEWS.items():
            for row in read_rows(folder / name):
                written.add(card(status, row))
            written.flush()
        pages = home / written.digest.hexdigest()[:16]
        pages.mkdir(exist_ok=True)
        for name in written.names:
            (written.folder / name).replace(pages / name)
        document = written.folder / index.name
        _write(document, _document(folder, pages.name, written))
        document.replace(index)
    _sweep(home, keep=pages.name)
    return index


def read_rows(path: Path) -> Iterator[Row]:
    """Read a view's rows one by one, past whatever is not a row.

    Args:
        path: A JSON Lines file; one that is missing has no rows.

    Yields:
        Each line that is a JSON object.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in iter(partial(file.readline, LINE_LIMIT), b""):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def card(status: str, row: Row) -> Row:
    """Return what the page shows of a row: known fields of the expected kinds, nothing else.

    Args:
        status: A key of ``VIEWS``.
        row: A row of that view; any field may be missing or of another kind.

    Returns:
        Fields by the view's names; for an image also ``src``, None if its path is unsafe, or if
        it is no raster image: a browser would run what it holds.
    """
    shown = {"status": status, "ratio": ratio_of(row), **_picked(row, _TEXTS, _NUMBERS)}
    if status == "done":
        shown["file_name"] = _short(str(row.get("file_name", "")))
        pictured = shown["file_name"].rpartition(".")[2].lower() in _PICTURES
        shown["src"] = source_of(row.get("file_name")) if pictured else None
        return shown
    error = row.get("error")
    shown["error"] = _picked(error if isinstance(error, dict) else {}, _ERROR_TEXTS, ("status",))
    return shown


def source_of(file_name: object) -> str | None:
    """Return a file's relative URL, or None unless it names a place inside the folder.

    Args:
        file_name: The path of a view's row: relative, its parts divided by ``/``.
    """
    if not isinstance(file_name, str):
        return None
    parts = file_name.split("/")
    # A backslash or a colon is a divider or a drive on Windows, a colon a scheme in a URL.
    if any(part in {"", ".", ".."} for part in parts) or re.search(r"[\\:\0]", file_name):
        return None
    try:
        return "/".join(quote(part.encode("utf-8", "surrogateescape"), safe="") for part in parts)
    except UnicodeEncodeError:
        return None


def ratio_of(row: Row) -> str:
    """Return the ratio by which the page filters a row: the asked one, else the nearest known.

    Args:
        row: A row of any view.
    """
    asked = row.get("aspect_ratio")
    if isinstance(asked, str) and re.fullmatch(r"[1-9]\d{0,2}:[1-9]\d{0,2}", asked, re.ASCII):
        return asked
    width, height = row.get("width"), row.get("height")
    if not (_is_number(width) and _is_number(height) and width > 0 and height > 0):
        return _OTHER
    distance, nearest = min((abs(log(width / height / _quotient(r))), r) for r in AspectRatio)
    return nearest.value if distance < log(1.1) else _OTHER


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


@attrs.define
class _Pages:
    """The scripts that hold the rows, written as they fill up, and what they count."""

    folder: Path
    digest: Any = attrs.field(factory=hashlib.sha256)
    counts: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    names: list[str] = attrs.field(factory=list)
    _rows: list[str] = attrs.field(factory=list)
    _size: int = 0
    _ratios: set[str] = attrs.field(factory=set)

    def add(self, row: Row) -> None:
        """Count a card and keep it for the page that is being filled."""
        if row["ratio"] not in self._ratios and len(self._ratios) >= RATIO_LIMIT:
            row["ratio"] = _OTHER
        self._ratios.add(row["ratio"])
        self.counts[row["status"], row["ratio"]] += 1
        text = script_json(row)
        self._rows.append(text)
        self._size += len(text)
        if len(self._rows) >= ROWS_PER_PAGE or self._size >= PAGE_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write the page that is being filled, if it holds anything."""
        if not self._rows:
            return
        number = len(self.names) + 1
        text = "gallery.page({},[\n{}\n]);\n".format(number, ",\n".join(self._rows))
        self.names.append(f"page-{number:04}.js")
        _write(self.folder / self.names[-1], text)
        self.digest.update(text.encode("ascii"))
        self._rows.clear()
        self._size = 0


def _document(folder: Path, pages: str, written: _Pages) -> str:
    """Fill the template; every part is escaped for the place where it stands."""
    style = "\n".join(_asset(name) for name in _STYLES)
    script = "\n".join(['(() => {\n"use strict";', *map(_asset, _SCRIPTS), "})();"])
    table: dict[str, dict[str, int]] = {status: {} for status in VIEWS}
    for (status, ratio), number in written.counts.items():
        table[status][ratio] = number
    manifest = {
        "pages": [f"gallery/{pages}/{name}" for name in written.names],
        "counts": table,
        "report": _report(folder / "report.json"),
    }
    parts = {
        "policy": html.escape(_policy(style, script)),
        "title": html.escape(printable(folder.resolve().name, 200) or "Gallery"),
        "style": style,
        "script": script,
        "manifest": script_json(manifest),
    }
    # One pass: what a part holds is never taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("index.html"))


def _policy(style: str, script: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            "img-src 'self'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)} 'strict-dynamic'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types gallery",
        )
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _report(path: Path) -> Row:
    """Read what the run said of itself; a report that is missing or torn says nothing."""
    try:
        report = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        report = None
    if not isinstance(report, dict):
        return {}
    return _picked(report, ("stopped_by",), ("images", "attempts", "seconds", "pending"))


def _write(path: Path, text: str) -> None:
    with disk.open_private(path, "wb") as file:
        file.write(text.encode())


def _asset(name: str) -> str:
    page: Traversable = files("imagen_async.batch") / "page"
    return (page / name).read_text("utf-8")


def _sweep(home: Path, keep: str) -> None:
    """Remove the pages of earlier galleries, and what a killed writer left an hour ago."""
    for entry in home.iterdir():
        left = entry.name.startswith(_PART) and time() - entry.stat().st_mtime > _ABANDONED
        if left or (re.fullmatch(r"[0-9a-f]{16}", entry.name) and entry.name != keep):
            shutil.rmtree(entry, ignore_errors=True)


def _picked(row: Row, texts: Iterable[str], numbers: Iterable[str]) -> Row:
    """Return the named fields that are there and of their kind."""
    shown: Row = {name: _short(row[name]) for name in texts if _is_text(row.get(name))}
    return shown | {name: row[name] for name in numbers if _is_number(row.get(name))}


def _short(text: str) -> str:
    if len(text) <= TEXT_LIMIT:
        return text
    return f"{text[:TEXT_LIMIT]}… ({len(text) - TEXT_LIMIT:,} more characters in the batch's files)"


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value != ""


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


def _quotient(ratio: str) -> float:
    width, _, height = ratio.partition(":")
    return int(width) / int(height)
