"""How long a server asks to wait, in whatever form it says so."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that an answer asks to wait, or None if it does not say.

    ``retry-after-ms`` is read first, then ``retry-after`` as a number of seconds (gateways send
    decimals too) or as an HTTP-date in its three forms (RFC 9110, sections 5.6.7 and 10.2.3).
    A date is measured against the answer's own ``Date``, so a wrong clock on either side does
    not change the wait. A value that cannot be read counts as absent. Of two equal headers the
    first counts.

    Args:
        headers: The answer's headers; names compare without case, or are in lower case.
        now: Unix time in seconds, for an answer without a readable ``Date``.

    Returns:
        Seconds, 0.0 or more; 0.0 for a date in the past.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    asked = headers.get("retry-after")
    seconds = _number(asked)
    if seconds is not None:
        return seconds
    until = _date(asked)
    if until is None:
        return None
    sent = _date(headers.get("date"))
    return max(0.0, until - (now if sent is None else sent))


def _number(text: str | None) -> float | None:
    # float() alone takes nan, 1e999, 1_0 and the digits of every script.
    found = _NUMBER.fullmatch(text.strip(" \t")) if text else None
    return float(found[0]) if found else None


def _date(text: str | None) -> float | None:
    try:
        # An HTTP-date may name a leap second; datetime knows none.
        when = parsedate_to_datetime((text or "").replace(":60 ", ":59 "))
        return when.replace(tzinfo=when.tzinfo or UTC).timestamp()
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError):
        return None
