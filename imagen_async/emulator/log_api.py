"""The gateway's log of calls, as three kinds of gateways show it to the key that made them.

A row is written when a request has ended, and appears some time later. Sources: QuantumNous's
new-api (controller and model of logs), LiteLLM's spend logs, AIMLAPI's reference of /v2/logs.
"""

from __future__ import annotations

import math
import time
from collections import deque
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING

import attrs

from imagen_async.emulator.answers import Answer, json_answer
from imagen_async.emulator.faults import chance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from imagen_async.emulator.ledger import Exchange
    from imagen_async.emulator.settings import Settings

ROWS_KEPT = 100_000
QUOTA = 500_000
"""new-api's units in a dollar."""
PAGE = 100
"""The most rows of a page of AIMLAPI."""

_CONSUME, _ERROR, _REFUND = 2, 5, 6


@attrs.frozen
class Call:
    """One row.

    Args:
        exchange: The request, with the ids of its caller and its gateway.
        began: Unix seconds of the log's clock.
        ended: The same, of the end.
        usd: What was charged; 0.0 for a failure, less for what is given back.
    """

    exchange: Exchange
    began: float
    ended: float
    usd: float

    @property
    def model(self) -> str:
        """The model that was asked for."""
        return str((self.exchange.body or {}).get("model") or "imagen4")


class LogApi:
    """The newest rows.

    Args:
        settings: Which log, and what is wrong with it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._calls: deque[Call] = deque(maxlen=ROWS_KEPT)
        self._apis = _APIS.get(settings.call_log or "", {})

    def note(self, exchange: Exchange, seconds: float, usd: float) -> None:
        """Write the row of a request that has ended.

        Args:
            exchange: The request.
            seconds: How long it took.
            usd: What was charged; 0.0 for a failure, less for what is given back.
        """
        settings = self._settings
        if settings.call_log is None or settings.call_log_off:
            return
        now = time.time() + settings.clock_skew
        call = Call(exchange, now - seconds, now, usd)
        if usd < 0 and settings.call_log != "newapi":  # the others correct the first row
            for place, row in enumerate(self._calls):
                if row.exchange is exchange:
                    self._calls[place] = attrs.evolve(row, usd=0.0)
            return
        self._calls.append(call)
        if chance(settings.seed, "stranger", exchange.number) < settings.call_log_strangers:
            # Somebody else's call, a while before: nothing in its row tells so.
            away = 600 * chance(settings.seed, "away", exchange.number)
            stranger = attrs.evolve(
                exchange,
                request_id=exchange.request_id[::-1],
                client_request_id=None,
                litellm_call_id=None,
            )
            row = Call(stranger, call.began - away, call.ended - away, settings.price)
            self._calls.append(row)

    def answer(self, path: str, query: Mapping[str, str], key: str) -> Answer | None:
        """Return the answer of the log's own paths; None for any other.

        Args:
            path: The request's path.
            query: Its query.
            key: Its bearer key.
        """
        api = self._apis.get(path)
        if api is None:
            return None
        answer = api(self, query, key)
        date = formatdate(time.time() + self._settings.clock_skew, usegmt=True)
        return attrs.evolve(answer, headers={**answer.headers, "Date": date})

    def admits(self, key: str) -> bool:
        """Return whether a key may read its rows."""
        keys = self._settings.keys
        return bool(key) if keys is None else key in keys

    def shown(self, key: str) -> list[Call]:
        """Return the rows of a key that have appeared, newest first."""
        now = time.time() + self._settings.clock_skew - self._settings.call_log_lateness
        return [
            call for call in reversed(self._calls) if call.exchange.key == key and call.ended <= now
        ]

    @property
    def limit(self) -> int:
        """Rows that are shown at once."""
        return self._settings.call_log_limit


def _status(_log: LogApi, _query: Mapping[str, str], _key: str) -> Answer:
    data = {"version": "v0.9.9", "system_name": "New API", "quota_per_unit": float(QUOTA)}
    return json_answer({"success": True, "message": "", "data": data})


def _token_log(log: LogApi, _query: Mapping[str, str], key: str) -> Answer:
    if not log.admits(key):
        return json_answer({"success": False, "message": "无效的令牌"})
    rows = [
        {
            "id": number,
            "created_at": math.floor(call.ended),
            "type": _CONSUME if call.usd > 0 else _REFUND if call.usd else _ERROR,
            "content": "",
            "token_name": "default",
            "model_name": call.model,
            "quota": round(abs(call.usd) * QUOTA),
            "use_time": math.floor(call.ended) - math.floor(call.began),
            "is_stream": False,
            "request_id": call.exchange.request_id,
        }
        for number, call in enumerate(log.shown(key)[: log.limit], start=1)
    ]
    return json_answer({"success": True, "message": "", "data": rows})


def _alive(_log: LogApi, _query: Mapping[str, str], _key: str) -> Answer:
    return json_answer("I'm alive!")


def _spend_logs(log: LogApi, query: Mapping[str, str], key: str) -> Answer:
    if not log.admits(key):
        return json_answer({"error": {"message": "Authentication Error", "code": "401"}}, 401)
    asked = query.get("request_id")
    rows = [
        {
            "request_id": f"img-{call.exchange.request_id}",
            "litellm_call_id": call.exchange.litellm_call_id,
            "call_type": "aimage_generation",
            "spend": call.usd,
            "startTime": _iso(call.began),
            "endTime": _iso(call.ended),
            "model": call.model,
            "status": "success" if call.usd else "failure",
            "metadata": {"status": "success" if call.usd else "failure"},
        }
        for call in log.shown(key)
        if asked in (None, call.exchange.litellm_call_id, f"img-{call.exchange.request_id}")
    ]
    return json_answer(rows[: log.limit])


def _usage_logs(log: LogApi, query: Mapping[str, str], key: str) -> Answer:
    if not log.admits(key):
        return json_answer({"error": {"message": "Invalid API key"}}, 401)
    try:
        limit, offset = int(query.get("limit", "50")), int(query.get("offset", "0"))
    except ValueError:
        limit, offset = 0, 0
    window = "period" in query or {"start", "end"} <= query.keys()
    if not 1 <= limit <= PAGE or offset < 0 or not window:
        return json_answer({"error": {"message": "Bad limit, offset or window"}}, 400)
    calls = log.shown(key)
    limit = min(limit, log.limit)
    rows = [
        {
            "created": _iso(call.began),
            "status": "succeeded" if call.usd else "failed",
            "origin": "api",
            "model": call.model,
            "cost": {"usd": call.usd, "credits": round(call.usd * 2_000_000)},
            "tokens": {"input": 0, "output": 0, "total": 0},
            "request_id": f"req-{call.exchange.request_id}",
            "inference_id": call.exchange.request_id,
            "client_request_id": call.exchange.client_request_id,
        }
        for call in calls[offset : offset + limit]
    ]
    total, more = len(calls), offset + limit < len(calls)
    pagination = {"limit": limit, "offset": offset, "total": total, "has_more": more}
    return json_answer({"data": rows, "pagination": pagination})


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_APIS: Mapping[str, Mapping[str, Callable[[LogApi, Mapping[str, str], str], Answer]]] = {
    "newapi": {"/api/status": _status, "/api/log/token": _token_log},
    "litellm": {"/health/liveliness": _alive, "/spend/logs": _spend_logs},
    "aimlapi": {"/v2/logs": _usage_logs},
}
