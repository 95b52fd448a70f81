"""``index.html``: the template of ``page/``, filled, and the policy that it is shown under.

The policy is the strictest that Chromium and Firefox load from disk: images of the same origin
(to which both count ``file:``), the inline style and script by their hashes, and further
scripts only when that script appends them (``strict-dynamic``). Text that became markup could
thus run nothing, and Trusted Types let no text become markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import attrs

from imagen_async.batch.gallery.columns import script_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imagen_async.batch.gallery.columns import CardTable
    from imagen_async.batch.gallery.views import About

_STYLES: Final = ("style.css", "grid.css", "lightbox.css")
_SCRIPTS: Final = (
    *("text.js", "keep.js", "layout.js", "cards.js", "choice.js", "grid.js"),
    *("lightbox.js", "panels.js", "live.js", "main.js"),
)


def document(about: About, cards: CardTable, live: Mapping[str, object] | None = None) -> str:
    """Return the page; every part is escaped for the place where it stands.

    Args:
        about: What it says of the whole.
        cards: Where they are and what they count.
        live: What the page of a run that goes on is told of it; None for a page of plain files.
    """
    style = "\n".join(map(_asset, _STYLES))
    script = "\n".join(['(() => {\n"use strict";', *map(_asset, _SCRIPTS), "})();"])
    manifest = {
        **attrs.asdict(about),
        "pages": cards.addresses,
        "counts": cards.counts,
        "columns": cards.facets(),
        "live": live,
    }
    parts = {
        "policy": html.escape(_policy(style, script, live=live is not None)),
        "title": html.escape(about.title),
        "style": style,
        "script": script,
        "manifest": script_json(manifest),
    }
    # One pass: what a part holds is never taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("index.html"))


def _policy(style: str, script: str, *, live: bool) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            "img-src 'self'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)} 'strict-dynamic'",
            *(("connect-src 'self'",) if live else ()),
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types gallery",
        )
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


@cache
def _asset(name: str) -> str:
    return (files("imagen_async.batch.gallery") / "page" / name).read_text("utf-8")
