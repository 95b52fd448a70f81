"""How long a server asks to wait, in whatever form it says so."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_CLOCK = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES = (
    f"[A-Z][a-z]{{2}}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_CLOCK} GMT",
    f"[A-Z][a-z]{{5,8}}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_CLOCK} GMT",
    f"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ 0-9][0-9]) {_CLOCK} (?P<year>[0-9]{{4}})",
)


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
    stripped = (text or "").strip(" \t")
    for form in _DATES:
        if found := re.fullmatch(form, stripped):
            return _timestamp(found)
    return None


def _timestamp(found: re.Match[str]) -> float | None:
    year = int(found["year"])
    if len(found["year"]) == 2:
        year += 2000 if year < 70 else 1900
    try:
        return datetime(
            year,
            _MONTHS.index(found["month"]) + 1,
            int(found["day"]),
            int(found["hour"]),
            int(found["minute"]),
            # An HTTP-date may name a leap second; datetime knows none.
            59 if found["second"] == "60" else int(found["second"]),
            tzinfo=UTC,
        ).timestamp()
    except ValueError:
        return None
