"""What the table of verdicts says of one answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from imagen_async.errors import Verdict
from imagen_async.wire.verdict_table import ROWS, STATED, STATUSES, UNREACHED, Heard

if TYPE_CHECKING:
    from imagen_async.wire.error_body import ErrorBody


@attrs.frozen(eq=False, repr=False)
class Found:
    """What the table says of an answer.

    Args:
        verdict: What it means.
        authentication: Whether the key is at fault.
        refusal: Whether the API itself turned the request away, by a 429 or in JSON: the one
            answer, beside an image, that says for certain what became of the request.
    """

    verdict: Verdict
    authentication: bool
    refusal: bool


_AUTHENTICATION = frozenset({401, 403, 407})
AT_THE_DOOR: Final = _AUTHENTICATION | {402, 404, 429}
"""Statuses that prove, as the code of an error inside a 2xx answer, that nothing was begun."""

OPEN: Final = Found(Verdict.UNKNOWN, authentication=False, refusal=False)
"""Nobody can say what became of the request."""
PENDING: Final = Found(Verdict.UNKNOWN, authentication=False, refusal=True)
"""The first request under its key is in the making; this one was turned away, and buys nothing."""
OTHER_BODY: Final = Found(Verdict.REJECTED, authentication=False, refusal=True)
"""Another body was sent under its key."""

_NAMES_KEY = re.compile("idempoten", re.IGNORECASE)
_REFUSALS = frozenset({Verdict.REFUSED, Verdict.QUOTA, Verdict.REJECTED})


def look_up(
    status: int,
    envelope: ErrorBody,
    *,
    server_errors_charged: bool,
    inside: bool = False,
    whole: str = "",
    request: bytes = b"",
) -> Found:
    """Return what an answer that is not a success means.

    Args:
        status: The HTTP status, or the one that an error inside a 2xx answer gives as its code.
        envelope: What the gateway says.
        server_errors_charged: Whether 500, 503 and 529 that the table does not know may have been
            charged.
        inside: Whether it is an error inside a 2xx answer.
        whole: All of its text.
        request: The request's body, ASCII JSON.
    """
    named = (envelope.code, envelope.type, *envelope.reasons)
    names = [name.lower() for name in named if name]
    words = "\n".join([*names, *filter(None, (envelope.message, envelope.footer))]).lower()
    heard = Heard(words, whole.lower(), request.decode("unicode_escape").lower())
    page = envelope.page
    row = next((row for row in ROWS if row.fits(status, names, heard, page)), None)
    if row is not None:
        verdict, authentication = row.verdict, row.authentication
    else:
        unlisted = Verdict.REJECTED if 300 <= status < 500 else Verdict.UNKNOWN
        verdict, authentication = STATUSES.get(status, unlisted), status in _AUTHENTICATION
        if inside and status not in AT_THE_DOOR:
            verdict = Verdict.UNKNOWN
        if status in STATED and not server_errors_charged:
            verdict = Verdict.FAILED
    return Found(
        verdict,
        authentication,
        refusal=verdict in _REFUSALS and (status == 429 or (not page and status not in UNREACHED)),
    )


def look_up_key(
    status: int, envelope: ErrorBody, *, used_before: bool, honoured: bool
) -> Found | None:
    """Return what an answer about the Idempotency-Key means; None if it is about something else.

    First row that fits::

        answer                               the key is          it means
        -----------------------------------  ------------------  ---------------------------------
        409 in JSON, key named or used       honoured            the first is still in the making
        422 that names the key               honoured            another body: rejected
        409, or 422 that names the key       used before         an earlier attempt may have cost

    Args:
        status: The HTTP status.
        envelope: What the gateway says.
        used_before: Whether an earlier attempt carried the same key.
        honoured: Whether the gateway is known to honour keys.
    """
    texts = (envelope.code, envelope.type, envelope.message)
    named = any(_NAMES_KEY.search(text) for text in texts if text)
    if honoured and status == 409 and not envelope.page and (named or used_before):
        return PENDING
    if honoured and status == 422 and named:
        return OTHER_BODY
    return OPEN if used_before and (status == 409 or (status == 422 and named)) else None
