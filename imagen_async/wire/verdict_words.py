"""A judgement in words: what an answer was, and what the gateway said with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from imagen_async.wire.error_body import clean
from imagen_async.wire.look_up import OTHER_BODY, PENDING
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imagen_async.wire.error_body import ErrorBody
    from imagen_async.wire.look_up import Found

WORDS_LIMIT: Final = 300
"""Characters of a server's words that a message quotes."""


def account(
    found: Found, status: int, headers: Mapping[str, str], envelope: ErrorBody
) -> tuple[str, str | None]:
    """Return what an answer was, and the gateway's words; None if it said none."""
    what = f"The gateway answered {status}"
    words = envelope.message or envelope.code or envelope.type
    if found is PENDING:
        return f"{what}, for the first request under this key is still in the making", words
    if found is OTHER_BODY:
        return f"{what}: another request was sent under this key; give this one a new key", words
    if 200 <= status < 300:
        return f"{what} with an error", words
    if 300 <= status < 400:
        origin = _origin(headers.get("Location") or "")
        where = f"points to {origin}: base_url should probably start with that"
        return f"{what} and {where if origin else 'redirects: base_url seems wrong'}", None
    if words is None:
        return f"{what} with {'a web page' if envelope.html else 'an empty body'}", None
    return what, words


def _origin(location: str) -> str | None:
    """Return scheme, host and port of a URL: the rest of it may hold a signature."""
    try:
        parts = urlsplit(location[:2000])
        host, port = parts.hostname, f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not host:
        return None
    return printable(f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}", 300)


def sentence(what: str, words: str | None) -> str:
    """Return one line of what happened and foreign words, clean and cut."""
    said = clean(words or "", WORDS_LIMIT)
    line = f"{what}: {said}" if said else what
    return line if line.endswith((".", "!", "?", "。", "…")) else f"{line}."
