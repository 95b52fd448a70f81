"""Foreign text made safe to show."""

from __future__ import annotations

import unicodedata
from urllib.parse import urlsplit, urlunsplit

QUOTE_LIMIT = 2048
"""Characters of a server's text that a message quotes."""


def printable(text: str, limit: int = QUOTE_LIMIT) -> str:
    r"""Return text with controls, bidi and zero-width characters shown as escapes, on one line.

    A server's words can otherwise drive the reader's terminal (CWE-150).

    Args:
        text: Any text, lone surrogates included.
        limit: The most characters of it to keep.
    """
    shown = text[:limit]
    if not (shown.isascii() and shown.isprintable()):
        shown = "".join(map(_visible, shown))
    return shown if len(text) <= limit else shown + "…"


def _visible(character: str) -> str:
    if character in "\n\t\r":
        return " "
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
        code = ord(character)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    return character


def shown_url(url: str) -> str:
    """Return a URL without user, query and fragment: where signatures and passwords stand."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return printable(urlunsplit((parts.scheme, host, parts.path, "", "")), 300)
    except ValueError:
        return "an unreadable URL"
