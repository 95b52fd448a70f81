"""Retry-After in every form that a server or an attacker may send."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from imagen_async.policy.retry_after import retry_after

NOON = "Sun, 06 Nov 1994 12:00:00 GMT"
NOON_UNIX = 784123200.0

# A year of two digits is read as one of 1969 to 2068.
moments = st.integers(0, 3_124_223_999).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("1", 1.0),
        ("59", 59.0),
        ("61", 61.0),
        (" 7\t", 7.0),
        ("1.5", 1.5),
        ("999999999", 999999999.0),
        ("-1", None),
        ("+1", None),
        (".5", None),
        ("1.", None),
        ("1.5.2", None),
        ("1e3", None),
        ("1e999", None),
        ("nan", None),
        ("inf", None),
        ("1_0", None),
        ("١٢", None),
        ("\uff11\uff12", None),
        ("²", None),
        ("0x10", None),
        ("1 2", None),
        ("1, 2", None),
        ("1\n", None),
        ("1000000000", None),
        ("", None),
        ("soon", None),
        ("9" * 10_240, None),
        ("Sun, 06 Nov 1994 12:00:30 GMT", 30.0),
        ("Sunday, 06-Nov-94 12:00:30 GMT", 30.0),
        ("Sun Nov  6 12:00:30 1994", 30.0),
        ("Wed Nov 16 12:00:00 1994", 864000.0),
        ("Saturday, 06-Nov-04 12:00:00 GMT", 315619200.0),
        ("Sun, 06 Nov 1994 11:59:59 GMT", 0.0),
        ("Sat, 31 Dec 1994 23:59:60 GMT", 4795199.0),
        ("Sat, 31 Dec 1994 23:59:61 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 252618177599.0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Sun, 31 Feb 1994 12:00:30 GMT", None),
        ("Sun, 06 Now 1994 12:00:30 GMT", None),
        ("Sun, 06 Nov 1994 25:00:30 GMT", None),
        ("Sun, 06 Nov 1994 12:00:30 PST", 28830.0),
        ("Sun, 06 Nov 1994 12:00:30 +0000", 30.0),
        ("1994-11-06T12:00:30Z", None),
        ("Sun, " * 2_048, None),
    ],
)
def test_each_form_of_the_header(value: str, seconds: float | None) -> None:
    """A readable value is seconds from the answer's Date; every other counts as absent."""
    assert retry_after({"retry-after": value, "date": NOON}, now=0.0) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"date": NOON}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "0.5"}, 0.0005),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "junk", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": NOON, "retry-after": "9"}, 9.0),
        ({"retry-after": "9", "date": "yesterday"}, 9.0),
    ],
)
def test_milliseconds_come_first(headers: dict[str, str], seconds: float | None) -> None:
    """The finer header wins where it is readable, and only there."""
    assert retry_after(headers, now=NOON_UNIX) == seconds


@pytest.mark.parametrize("now", [NOON_UNIX - 86_400, NOON_UNIX, NOON_UNIX + 31_536_000])
def test_the_answers_own_date_beats_the_clock(now: float) -> None:
    """A wall clock that is a day behind or a year ahead leaves the wait as it was asked."""
    headers = {"retry-after": "Sun, 06 Nov 1994 12:00:30 GMT", "date": NOON}
    assert retry_after(headers, now) == 30.0


@pytest.mark.parametrize("date", [None, "", "junk", "Sun, 06 Nov 99999 12:00:00 GMT"])
def test_the_clock_serves_where_no_date_does(date: str | None) -> None:
    """Without a readable Date the wait is measured against the given time."""
    headers = {"retry-after": "Sun, 06 Nov 1994 12:00:30 GMT"} | ({"date": date} if date else {})
    assert retry_after(headers, NOON_UNIX + 10) == 20.0


def test_the_first_of_two_headers_counts() -> None:
    """A repeated header is read once, whatever the case of its name."""
    headers = CIMultiDict([("Retry-After", "3"), ("retry-after", "600")])
    assert retry_after(headers, 0.0) == 3.0


@given(
    text=st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d\d Nov \d{4} \d\d:\d\d:\d\d GMT"),
    date=st.text(),
    now=st.floats(0, 1e11),
)
def test_no_text_raises(text: str, date: str, now: float) -> None:
    """Any header text gives None or a finite wait of at least 0."""
    for name in ("retry-after", "retry-after-ms"):
        seconds = retry_after({name: text, "date": date}, now)
        assert seconds is None or 0.0 <= seconds < 1e12


@given(sent=moments, until=moments)
def test_the_three_date_forms_agree(sent: datetime, until: datetime) -> None:
    """Whichever HTTP-date form a server picks, the wait is the difference of the two moments."""
    imf = format_datetime(until, usegmt=True)
    month = imf[8:11]
    forms = (
        imf,
        f"{until:%A}, {until.day:02}-{month}-{until.year % 100:02} {until:%H:%M:%S} GMT",
        f"{imf[:3]} {month} {until.day:2} {until:%H:%M:%S} {until.year}",
    )
    wanted = max(0.0, (until - sent).total_seconds())
    headers = {"date": format_datetime(sent, usegmt=True)}
    assert [retry_after(headers | {"retry-after": form}, 0.0) for form in forms] == [wanted] * 3
