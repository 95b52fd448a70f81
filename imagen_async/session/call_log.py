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
from bisect import bisect_left
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, get_args

import attrs

from imagen_async.errors import CallLogError, Charge, ConfigurationError
from imagen_async.policy.evidence import HOUR
from imagen_async.policy.rate import Rate
from imagen_async.policy.settlement import CallLog, LogName
from imagen_async.session.log_rows import aimlapi_row, litellm_row, log_error, newapi_row
from imagen_async.session.transport import ExchangeError
from imagen_async.wire.error_body import read_error_body
from imagen_async.wire.mask import NO_MASK
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from yarl import URL

    from imagen_async.policy.settlement import Doubt, KnownCall, LogRow
    from imagen_async.session.transport import Head, Receiver
    from imagen_async.wire.mask import Mask

LOGS: Final = get_args(LogName)
"""The logs that can be read, by name."""
DOCUMENT_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of one answer; a thousand rows have about one million."""
VALUES_LIMIT: Final = 200_000
"""Values in one answer: they cost far more than their text."""
ROWS_LIMIT: Final = 100_000
"""Rows that are read answer by answer."""
PAGE: Final = 100
LONGEST_WINDOW: Final = 92 * 86_400.0
"""Seconds that AIMLAPI's log can be asked for at once."""
PATIENCE: Final = 60.0
"""Seconds that a read waits for its turn; for more it is put off."""
_PACES: Final = {"newapi": (0.5, 10), "aimlapi": (100.0, 100), "litellm": (None, 1)}
"""Calls a minute and at once: never more than 20 in 20 minutes, and of AIMLAPI 200 in one."""
_KEPT: Final = {
    "aimlapi": re.compile("[A-Za-z0-9._:-]{1,128}"),
    "litellm": re.compile("[!-~]{8,256}"),
}
"""Ids of ours that a log keeps as they are."""
_REFUSALS: Final = {
    401: "is not open to this API key (401)",
    403: "is not open to this API key (403)",
    404: "is not there (404): this gateway has none of that kind",
    429: "was asked too often (429); try again in 20 minutes",
}


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


def _known(_: object, __: object, name: str | None) -> None:
    if name not in (None, *LOGS):
        raise ConfigurationError(f"log must be one of {', '.join(LOGS)}, or None to find it out.")


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
        ConfigurationError: If there is no log of that name.
        CallLogError: From every method, if the log cannot be read; it says why.
    """

    _get: Get
    _origin: URL
    name: str | None = attrs.field(validator=_known)
    _clock: Callable[[], float]
    _sleep: Callable[[float], Awaitable[None]]
    _mask: Mask = NO_MASK
    _skew: tuple[float, float] = attrs.field(init=False, default=(-HOUR, HOUR))
    _rates: dict[str, Rate] = attrs.field(
        init=False, factory=lambda: {name: Rate(*pace) for name, pace in _PACES.items()}
    )

    async def read(self, doubts: Sequence[Doubt], calls: Collection[KnownCall]) -> CallLog:
        """Read what the log says of the time of some items.

        Args:
            doubts: The items in doubt; at least one.
            calls: Our other sends near them, as ``settle`` takes them.
        """
        began, self._skew = self._clock(), (-HOUR, HOUR)
        if self.name is None:
            self.name = await self._probe()
        keys = None
        if self.name == "newapi":
            rows = await self._read_newapi()
            # The newest rows alone, and how many differs: what was written before the oldest of
            # them may have been cut off. Rows of one second may have been, too.
            since = min((row.end for row in rows if row.end is not None), default=math.inf)
        elif self.name == "aimlapi":
            keys = self._keys(doubts, calls)
            earliest = min(send.at for doubt in doubts for send in doubt.sends)
            since = max(earliest - 2 * HOUR, began - LONGEST_WINDOW)
            rows = await self._read_aimlapi(keys, since, began)
        else:
            keys, since = self._keys(doubts, _witnesses(doubts, calls)), -math.inf
            rows = await self._read_litellm(keys)
        return CallLog(
            rows=tuple(rows), read_at=began, whole_since=since, skew=self._skew, keys=keys
        )

    async def _probe(self) -> str:
        """Return which log the gateway has; each is told by what only it answers."""
        if (self._origin.host or "").endswith("aimlapi.com"):
            return "aimlapi"
        status = await self._try("/api/status")
        if _get(status, "success") is True and _get(status, "data") is not None:
            return "newapi"
        alive = await self._try("/health/liveliness")
        if isinstance(alive, str) and "alive" in alive:
            return "litellm"
        if _get(await self._try("/v2/logs", period="24h", limit="1"), "pagination") is not None:
            return "aimlapi"
        raise CallLogError(
            "No log of calls was found at the gateway; if it has one, name its kind: "
            f"{', '.join(LOGS)}."
        )

    async def _try(self, path: str, **query: str) -> Any:
        head, body = await self._fetch(path, query)
        try:
            return _document(body) if head.status == 200 else None
        except CallLogError:
            return None

    async def _read_newapi(self) -> list[LogRow]:
        data = _get(await self._ask("/api/log/token"), "data")
        rows = map(newapi_row, _rows(data if isinstance(data, list) else _get(data, "items")))
        return [row for row in rows if row is not None]

    async def _read_aimlapi(self, keys: frozenset[str], since: float, until: float) -> list[LogRow]:
        window = {"start": _iso(since), "end": _iso(until), "limit": str(PAGE)}
        found: list[LogRow] = []
        seen: set[object] = set()
        more = True
        while more:
            # Each page begins with the last row of the one before: if that is not there, rows
            # have left the log meanwhile, and others were passed over.
            offset = max(0, len(seen) - 1)
            page = await self._ask("/v2/logs", **window, offset=str(offset))
            rows = {row.id or row: row for row in map(aimlapi_row, _rows(_get(page, "data")))}
            more = _get(_get(page, "pagination"), "has_more") is True
            total = _get(_get(page, "pagination"), "total")
            if max(len(seen), total if isinstance(total, int) else 0) > ROWS_LIMIT:
                raise log_error(f"has more than {ROWS_LIMIT:,} rows of that time")
            moved = bool(seen) and next(iter(rows), None) not in seen
            if moved or (more and seen.issuperset(rows)):
                raise log_error("changed while it was read; try again")
            new = (row for name, row in rows.items() if name not in seen)
            found += [row for row in new if row.client_id in keys]
            seen.update(rows)
        return found

    async def _read_litellm(self, keys: frozenset[str]) -> list[LogRow]:
        rows: list[LogRow] = []
        for key in sorted(keys):
            found = await self._ask("/spend/logs", request_id=key)
            found = [found] if isinstance(found, dict) else found
            # An old version answers a list that holds nothing but null.
            rows += [litellm_row(row, key) for row in _rows([] if found == [None] else found)]
            if len(rows) > ROWS_LIMIT:
                raise log_error(f"has more than {ROWS_LIMIT:,} rows of that time")
        return rows

    def _keys(self, doubts: Collection[Doubt], calls: Collection[KnownCall]) -> frozenset[str]:
        kept = _KEPT[self.name or ""]
        keys = {doubt.key for doubt in doubts} | {call.key for call in calls}
        return frozenset(key for key in keys if key is not None and kept.fullmatch(key))

    async def _ask(self, path: str, **query: str) -> Any:
        """Return the document at a path of the log."""
        rate = self._rates[self.name or ""]
        if (seconds := rate.ahead(self._clock())) > PATIENCE:
            raise log_error(f"may not be asked so often; try again in {math.ceil(seconds)} s")
        await self._sleep(rate.reserve(self._clock()))
        head, body = await self._fetch(path, query)
        if 300 <= head.status < 400:
            raise log_error(f"was moved ({head.status}), and the API key is not sent after it")
        if head.status != 200:
            other = f"cannot be read, the gateway answered {head.status}{self._said(body)}"
            raise log_error(_REFUSALS.get(head.status, other))
        document = _document(body)
        if _get(document, "success") is False:
            raise log_error(f"was refused{self._said(body)}")
        return document

    def _said(self, body: _Body) -> str:
        said = read_error_body(bytes(body.text), self._mask).message
        return f": {printable(said, 200)}" if said else ""

    async def _fetch(self, path: str, query: dict[str, str]) -> tuple[Head, _Body]:
        body, sent = _Body(), self._clock()
        try:
            head = await self._get(self._origin.with_path(path).with_query(query), lambda _: body)
        except ExchangeError as error:
            raise log_error(f"did not answer: {error.detail}") from None
        self._compare(head.headers.get("Date"), sent, self._clock())
        return head, body

    def _compare(self, date: str | None, sent: float, received: float) -> None:
        """Narrow down how far the gateway's clock is ahead, by the ``Date`` of an answer."""
        try:
            told = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        low, high = max(self._skew[0], told - received), min(self._skew[1], told + 1 - sent)
        # Of clocks that ran apart meanwhile the latest word counts.
        self._skew = (low, high) if low <= high else (told - received, told + 1 - sent)


def _document(body: _Body) -> Any:
    text = bytes(body.text)
    if body.full:
        raise log_error(f"answered with more than {DOCUMENT_LIMIT // 1024**2} MiB")
    if text.lstrip().startswith(b"<"):
        raise log_error("answered with a web page")
    if sum(map(text.count, (b"{", b"[", b","))) > VALUES_LIMIT:
        raise log_error("answered with too many rows at once")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise log_error("answered with something that is not JSON") from None


def _rows(rows: object) -> list[dict[str, Any]]:
    if not isinstance(rows, list):
        raise log_error("answered without rows")
    if not all(isinstance(row, dict) for row in rows):
        raise log_error("has rows that are no objects")
    return rows


def _get(document: object, name: str) -> Any:
    return document.get(name) if isinstance(document, dict) else None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _witnesses(doubts: Sequence[Doubt], calls: Collection[KnownCall]) -> list[KnownCall]:
    """Return a few charged calls near the items: what a log that works has under their keys."""
    charged = [call for call in calls if call.charge is Charge.YES and call.key is not None]
    charged.sort(key=lambda call: call.send.at)
    times = [call.send.at for call in charged]
    hours = {send.at // HOUR * HOUR for doubt in doubts for send in doubt.sends}
    places = {bisect_left(times, hour) + side for hour in hours for side in (-1, 0)}
    return [charged[place] for place in places if 0 <= place < len(charged)]
