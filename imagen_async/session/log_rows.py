"""The rows of three gateways' logs, tolerantly read into values.

What a row says of money is read the safe way: only what is known to be a failure at no cost is
free, and only what has a price is a charge; all else is open.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from imagen_async.errors import CallLogError
from imagen_async.policy.settlement import LogRow, RowKind

EARLIEST = 1e9
LATEST = 1e10
"""Unix seconds between which a log's times must lie: milliseconds do not."""

LONGEST = 512
"""Characters of an id or a name; what is longer is none, so that a log of many fits."""

_SKIPPED = frozenset({1, 3, 4, 7})
"""new-api's types of rows that are no requests: top-ups, and what managers and logins did."""
_BIGGEST = 1e300
_CONSUME, _ERROR, _REFUND = 2, 5, 6


def log_error(what: str) -> CallLogError:
    """Return the error for a log that cannot be used, by the rest of a sentence about it."""
    return CallLogError(f"The gateway's log {what}.")


def newapi_row(row: dict[str, Any]) -> LogRow | None:
    """Read a row of new-api's token log; None if it is no request's."""
    type_ = _number(row.get("type"))
    quota = _number(row.get("quota")) or 0.0
    if type_ in _SKIPPED:
        return None
    kind = RowKind.OPEN
    if type_ == _REFUND or quota < 0:
        kind = RowKind.REFUND
    elif type_ == _CONSUME and quota > 0:
        kind = RowKind.CHARGE
    elif type_ == _ERROR and quota == 0:
        kind = RowKind.FREE
    end = _moment(row.get("created_at"))
    took = _number(row.get("use_time"))
    return LogRow(
        kind=kind,
        id=_text(row.get("request_id")),
        start=None if end is None or took is None else end - took,
        end=end,
        model=_text(row.get("model_name")),
        amount=quota,
        unit="quota",
    )


def aimlapi_row(row: dict[str, Any]) -> LogRow:
    """Read a row of AIMLAPI's usage log."""
    cost = row.get("cost")
    spent = _number(cost.get("usd")) if isinstance(cost, dict) else None
    return LogRow(
        kind=_kind(spent, failed=row.get("status") == "failed"),
        id=_text(row.get("inference_id")) or _text(row.get("request_id")),
        client_id=_text(row.get("client_request_id")),
        start=_moment(row.get("created")),
        model=_text(row.get("model")),
        amount=spent,
        unit="usd",
    )


def litellm_row(row: dict[str, Any], key: str) -> LogRow:
    """Read a row that LiteLLM found under a key.

    Raises:
        CallLogError: If the row does not carry the key: then the log was not asked for it.
    """
    # Where it stands depends on the version: an id of the row, or somewhere in its metadata.
    if json.dumps(key) not in json.dumps(row):
        raise log_error(
            "gives rows that do not carry our id: it must be of September 2026 or newer"
        )
    metadata = row.get("metadata")
    status = row.get("status") or (metadata.get("status") if isinstance(metadata, dict) else None)
    spent = _number(row.get("spend"))
    return LogRow(
        kind=_kind(spent, failed=status == "failure"),
        id=_text(row.get("request_id")),
        client_id=key,
        start=_moment(row.get("startTime")),
        end=_moment(row.get("endTime")),
        model=_text(row.get("model")),
        amount=spent,
        unit="usd",
    )


def _kind(spent: float | None, *, failed: bool) -> RowKind:
    if spent:
        return RowKind.CHARGE if spent > 0 else RowKind.REFUND
    return RowKind.FREE if failed and spent is not None else RowKind.OPEN


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= LONGEST else None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if -_BIGGEST < value < _BIGGEST else None


def _moment(value: object) -> float | None:
    """Return Unix seconds of themselves, or of an ISO-8601 text, in UTC if it names no zone."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise log_error("has times that cannot be read") from None
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    seconds = _number(value)
    if seconds is not None and not EARLIEST <= seconds <= LATEST:
        raise log_error("has times that are not Unix seconds")
    return seconds
