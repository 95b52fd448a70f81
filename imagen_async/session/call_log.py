"""Read a gateway's log of calls: the same key, the API's own origin, and never more than asked.

========  ==========================  =======================================================
log       asked at                    what it keeps
========  ==========================  =======================================================
litellm   /spend/logs?request_id=     the id we sent (``x-litellm-call-id``): one look-up each
aimlapi   /v2/logs, newest first      the id we sent (``X-Client-Request-Id``)
newapi    /api/log/token              its own ids; the newest 1,000 rows of the key
========  ==========================  =======================================================

Whatever is odd about an answer is an error in one line, and nothing is settled by it.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, get_args

import attrs

from imagen_async.errors import CallLogError, Charge
from imagen_async.policy.evidence import HOUR
from imagen_async.policy.settlement import CallLog, LogName
from imagen_async.session.log_rows import RowError, aimlapi_row, litellm_row, newapi_row
from imagen_async.session.transport import ExchangeError
from imagen_async.wire.error_body import read_error_body
from imagen_async.wire.mask import NO_MASK
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence

    from yarl import URL

    from imagen_async.policy.settlement import Doubt, KnownCall, LogRow
    from imagen_async.session.transport import Head, Receiver
    from imagen_async.wire.mask import Mask

LOGS: Final = get_args(LogName)
"""The logs that can be read, by name."""
DOCUMENT_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of one answer; a thousand rows have about one million."""
VALUES_LIMIT: Final = 200_000
"""Objects and lists in one answer: they cost far more as values than as text."""
ROWS_LIMIT: Final = 100_000
"""Rows that are read page by page."""
PAGE: Final = 100
LONGEST_WINDOW: Final = 92 * 86_400.0
"""Seconds that AIMLAPI's log can be asked for at once."""
PATIENCE: Final = 60.0
"""Seconds that a read waits for its turn; for more it is put off."""
_PACES: Final = {"newapi": (20, 1200.0), "aimlapi": (200, 60.0)}
"""Calls and seconds: at most so many in any time so long."""
_KEPT: Final = {
    "aimlapi": re.compile("[A-Za-z0-9._:-]{1,128}"),
    "litellm": re.compile("[!-~]{8,256}"),
}
"""Ids of ours that a log keeps as they are."""


class Get(Protocol):
    """Send one GET with the API's key and feed its answer to a receiver.

    Redirects are not followed, no content coding is asked for, and the URL is always one of the
    API's origin.

    Raises:
        ExchangeError: If the exchange broke.
    """

    async def __call__(self, url: URL, on_head: Callable[[Head], Receiver], /) -> Head:
        """Return the answer's status and headers."""
        ...


class _Body:
    """Keeps an answer's body up to the limit."""

    __slots__ = ("full", "text")

    def __init__(self) -> None:
        self.text = bytearray()
        self.full = False

    def feed(self, chunk: bytes, /) -> None:
        self.text += chunk[: DOCUMENT_LIMIT + 1 - len(self.text)]
        self.full = len(self.text) > DOCUMENT_LIMIT


class _Pace:
    """At most so many calls in any time so long."""

    def __init__(self, calls: int, seconds: float) -> None:
        self._seconds = seconds
        self._times: deque[float] = deque(maxlen=calls)

    def wait(self, now: float) -> float:
        """Return how many seconds the next call has to wait."""
        if len(self._times) < (self._times.maxlen or 0):
            return 0.0
        return max(0.0, self._times[0] + self._seconds - now)

    def called(self, now: float) -> None:
        """Note a call."""
        self._times.append(now)


@attrs.define
class _Reading:
    """What one read comes to."""

    began: float
    skew: tuple[float, float] = (-HOUR, HOUR)
    rows: list[LogRow] = attrs.field(factory=list)

    def compare(self, date: str | None, sent: float, received: float) -> None:
        """Narrow down how far the gateway's clock is ahead, by the ``Date`` of an answer."""
        try:
            told = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        low, high = max(self.skew[0], told - received), min(self.skew[1], told + 1 - sent)
        # Of clocks that ran apart meanwhile the latest word counts.
        self.skew = (low, high) if low <= high else (told - received, told + 1 - sent)


@attrs.define(eq=False)
class CallLogReader:
    """Reads the log of one gateway; its pace is kept from one read to the next.

    Args:
        get: Sends a GET with the key.
        origin: The API's origin.
        name: One of ``LOGS``; None finds out by asking.
        clock: Unix seconds.
        sleep: Waits so many seconds.
        mask: Put over what an answer says.

    Raises:
        CallLogError: From every method, if the log cannot be read; it says why.
    """

    _get: Get
    _origin: URL
    name: str | None = attrs.field(validator=attrs.validators.in_((*LOGS, None)))
    _clock: Callable[[], float]
    _sleep: Callable[[float], Awaitable[None]]
    _mask: Mask = NO_MASK
    _paces: dict[str, _Pace] = attrs.field(init=False, factory=dict)

    async def read(self, doubts: Sequence[Doubt], calls: Collection[KnownCall]) -> CallLog:
        """Read what the log says of the time of some items.

        Args:
            doubts: The items in doubt; at least one.
            calls: Our other sends near them, as ``settle`` takes them.
        """
        reading = _Reading(self._clock())
        if self.name is None:
            self.name = await self._probe(reading)
        if self.name == "newapi":
            return await self._read_newapi(reading)
        if self.name == "aimlapi":
            return await self._read_aimlapi(reading, doubts, calls)
        return await self._read_litellm(reading, doubts, calls)

    async def _probe(self, reading: _Reading) -> str:
        """Return which log the gateway has; each is told by what only it answers."""
        if (self._origin.host or "").endswith("aimlapi.com"):
            return "aimlapi"
        status = await self._try(reading, "/api/status")
        if isinstance(status, dict) and status.get("success") is True and "data" in status:
            return "newapi"
        alive = await self._try(reading, "/health/liveliness")
        if isinstance(alive, str) and "alive" in alive:
            return "litellm"
        logs = await self._try(reading, "/v2/logs", period="24h", limit="1")
        if isinstance(logs, dict) and "pagination" in logs:
            return "aimlapi"
        raise CallLogError(
            "No log of calls was found at the gateway; if it has one, name its kind: "
            f"{', '.join(LOGS)}."
        )

    async def _try(self, reading: _Reading, path: str, **query: str) -> Any:
        head, body = await self._fetch(reading, "", path, query)
        try:
            return self._document(head, body) if head.status == 200 else None
        except CallLogError:
            return None

    async def _read_newapi(self, reading: _Reading) -> CallLog:
        document = await self._ask(reading, "/api/log/token")
        data = document.get("data") if isinstance(document, dict) else None
        if isinstance(data, dict):
            data = data.get("items")
        rows = [_read(newapi_row, row) for row in self._list(data)]
        reading.rows += [row for row in rows if row is not None]
        # The newest rows alone, and how many differs: what was written before the oldest of them
        # may have been cut off. Rows of one second may have been, too.
        ends = [row.end for row in reading.rows if row.end is not None]
        return self._log(reading, whole_since=min(ends, default=math.inf))

    async def _read_aimlapi(
        self, reading: _Reading, doubts: Sequence[Doubt], calls: Collection[KnownCall]
    ) -> CallLog:
        keys = self._keys(doubts, calls)
        earliest = min(send.at for doubt in doubts for send in doubt.sends)
        since = max(earliest - 2 * HOUR, reading.began - LONGEST_WINDOW)
        window = {"start": _iso(since), "end": _iso(reading.began), "limit": str(PAGE)}
        seen: set[object] = set()
        more = True
        while more:
            # Each page begins with the last row of the one before: if that is not there, rows
            # have left the log meanwhile, and others were passed over.
            offset = max(0, len(seen) - 1)
            page = await self._ask(reading, "/v2/logs", **window, offset=str(offset))
            rows = [_read(aimlapi_row, row) for row in self._list(_get(page, "data"))]
            more = _get(_get(page, "pagination"), "has_more") is True
            total = _get(_get(page, "pagination"), "total")
            if max(len(seen), total if isinstance(total, int) else 0) > ROWS_LIMIT:
                raise self._error(f"has more than {ROWS_LIMIT:,} rows of that time")
            names = [row.id or row for row in rows]
            strange = bool(seen) and (not names or names[0] not in seen)
            if strange or (more and seen.issuperset(names)):
                raise self._error("changed while it was read; try again")
            reading.rows += [
                row
                for row, name in zip(rows, names, strict=True)
                if name not in seen and row.client_id in keys
            ]
            seen.update(names)
        return self._log(reading, whole_since=since, keys=keys)

    async def _read_litellm(
        self, reading: _Reading, doubts: Sequence[Doubt], calls: Collection[KnownCall]
    ) -> CallLog:
        keys = self._keys(doubts, _witnesses(doubts, calls))
        for key in sorted(keys):
            found = await self._ask(reading, "/spend/logs", request_id=key)
            rows = [found] if isinstance(found, dict) else self._list(found)
            for row in rows:
                if row is not None:
                    reading.rows.append(_read(litellm_row, row, key))
        return self._log(reading, whole_since=-math.inf, keys=keys)

    def _keys(self, doubts: Collection[Doubt], calls: Collection[KnownCall]) -> frozenset[str]:
        kept = _KEPT[self.name or ""]
        keys = {doubt.key for doubt in doubts} | {call.key for call in calls}
        return frozenset(key for key in keys if key is not None and kept.fullmatch(key))

    def _log(
        self, reading: _Reading, *, whole_since: float, keys: frozenset[str] | None = None
    ) -> CallLog:
        return CallLog(
            rows=tuple(reading.rows),
            read_at=reading.began,
            whole_since=whole_since,
            skew=reading.skew,
            keys=keys,
        )

    async def _ask(self, reading: _Reading, path: str, **query: str) -> Any:
        """Return the document at a path of the log."""
        head, body = await self._fetch(reading, self.name or "", path, query)
        if head.status != 200:
            raise self._refused(head, bytes(body.text))
        document = self._document(head, body)
        if isinstance(document, dict) and document.get("success") is False:
            said = read_error_body(bytes(body.text), self._mask).message
            raise self._error(f"was refused: {printable(said, 200)}" if said else "was refused")
        return document

    async def _fetch(
        self, reading: _Reading, pace: str, path: str, query: dict[str, str]
    ) -> tuple[Head, _Body]:
        body = _Body()
        if pace in _PACES:
            await self._wait(pace)
        sent = self._clock()
        try:
            head = await self._get(self._origin.with_path(path).with_query(query), lambda _: body)
        except ExchangeError as error:
            raise self._error(f"did not answer: {error.detail}") from None
        reading.compare(head.headers.get("Date"), sent, self._clock())
        return head, body

    async def _wait(self, name: str) -> None:
        pace = self._paces.setdefault(name, _Pace(*_PACES[name]))
        seconds = pace.wait(self._clock())
        if seconds > PATIENCE:
            raise self._error(
                f"may be asked {_PACES[name][0]} times in {_PACES[name][1] / 60:g} minutes; "
                f"try again in {math.ceil(seconds)} s"
            )
        if seconds > 0:
            await self._sleep(seconds)
        pace.called(self._clock())

    def _refused(self, head: Head, body: bytes) -> CallLogError:
        if head.status in (401, 403):
            return self._error(f"is not open to this API key ({head.status})")
        if head.status == 404:
            return self._error("is not there (404): this gateway has none of that kind")
        if head.status == 429:
            return self._error("was asked too often (429); try again in 20 minutes")
        if 300 <= head.status < 400:
            return self._error(f"was moved ({head.status}), and the API key is not sent after it")
        said = read_error_body(body, self._mask).message
        words = f": {printable(said, 200)}" if said else ""
        return self._error(f"cannot be read, the gateway answered {head.status}{words}")

    def _document(self, head: Head, body: _Body) -> Any:
        text = bytes(body.text)
        if body.full:
            raise self._error(f"answered with more than {DOCUMENT_LIMIT // 1024**2} MiB")
        if text.lstrip().startswith(b"<"):
            raise self._error("answered with a web page")
        if text.count(b"{") + text.count(b"[") > VALUES_LIMIT:
            raise self._error("answered with too many rows at once")
        if (head.headers.get("Content-Encoding") or "identity") != "identity":
            raise self._error("answered in an encoding that was not asked for")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise self._error("answered with something that is not JSON") from None

    def _list(self, rows: object) -> list[Any]:
        if not isinstance(rows, list):
            raise self._error("answered without rows")
        return rows

    def _error(self, what: str) -> CallLogError:
        return CallLogError(f"The gateway's log {what}.")


def _read(reader: Callable[..., Any], row: object, *more: str) -> Any:
    if not isinstance(row, dict):
        raise CallLogError("The gateway's log has rows that are no objects.")
    try:
        return reader(row, *more)
    except RowError as error:
        raise CallLogError(f"The gateway's log {error}.") from None


def _get(document: object, name: str) -> Any:
    return document.get(name) if isinstance(document, dict) else None


def _iso(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _witnesses(doubts: Sequence[Doubt], calls: Collection[KnownCall]) -> list[KnownCall]:
    """Return a few charged calls near the items: what a log that works has under their keys."""
    charged = [call for call in calls if call.charge is Charge.YES and call.key is not None]
    charged.sort(key=lambda call: call.send.at)
    return list(_nearest(sorted(_hours(doubts)), charged))


def _hours(doubts: Sequence[Doubt]) -> set[float]:
    return {send.at // HOUR * HOUR for doubt in doubts for send in doubt.sends}


def _nearest(hours: Sequence[float], charged: Sequence[KnownCall]) -> Iterator[KnownCall]:
    at = 0
    for hour in hours:
        while at < len(charged) and charged[at].send.at < hour:
            at += 1
        yield from charged[max(0, at - 1) : at + 1]
