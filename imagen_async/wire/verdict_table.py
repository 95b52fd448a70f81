"""The table of verdicts on answers, as data to be checked line by line.

A gateway's status is often wrong, its code and words less so: ``ROWS`` is asked first, from top
to bottom, then ``STATUSES``, then the class of the status. What a row calls uncharged is sent
again or reported as free, so a doubtful answer stays UNKNOWN.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import attrs

from imagen_async.errors import Verdict

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from imagen_async.wire.envelope import Envelope


@attrs.frozen
class Row:
    """One line of the table; it fits when everything it names fits.

    Args:
        verdict: What an answer that fits means.
        statuses: The HTTP statuses it is about.
        codes: The error's code, type or reason is one of these, in lower case.
        words: A pattern, in lower case, found in its code, type, reasons or message.
        retry_after: The answer carries a Retry-After header.
        authentication: The key is at fault.
    """

    verdict: Verdict
    statuses: Container[int]
    codes: frozenset[str] | None = None
    words: re.Pattern[str] | None = None
    retry_after: bool = False
    authentication: bool = False

    def fits(self, status: int, names: list[str], heard: str, later: bool) -> bool:
        """Return whether an answer is one that this row is about.

        Args:
            status: Its HTTP status.
            names: Its code, type and reasons, in lower case.
            heard: These and its message, in lower case.
            later: Whether it carries a Retry-After header.
        """
        return (
            status in self.statuses
            and (self.codes is None or not self.codes.isdisjoint(names))
            and (self.words is None or self.words.search(heard) is not None)
            and (later or not self.retry_after)
        )


def _codes(names: str) -> frozenset[str]:
    return frozenset(names.split())


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


_SUCCESS = frozenset(range(200, 300))
_FAULTY = frozenset({500, 501, 503, 529})
_BUSY = _SUCCESS | {429, 500, 503}
# Where a body's code or words are believed. Not 408, 502, 504, 52x: a front wrote those, and
# whatever stands behind it may have gone on.
_SPOKEN = _SUCCESS | (frozenset(range(400, 500)) - {408}) | _FAULTY

ROWS: Final[tuple[Row, ...]] = (
    # new-api puts this text in place of any upstream 429's, whose code (even billing_not_active)
    # it leaves: that account is the gateway's own, not the caller's.
    Row(Verdict.REFUSED, _BUSY, words=_words("负载已饱和")),
    # Google sends one message for every quota; the quotaId tells a day's from a minute's. A day's
    # (and a quota of 0) heals in hours or never: stop, at no charge, rather than knock till then.
    Row(
        Verdict.QUOTA,
        _SPOKEN,
        words=_words("perdayper", "requests_per_day", "dailylimitexceeded", r"quota.*limit: 0\b"),
    ),
    Row(
        Verdict.REFUSED,
        _BUSY,
        words=_words("resource_exhausted", r"ai\.google\.dev", r"quota exceeded for \S*per_minute"),
    ),
    Row(
        Verdict.QUOTA,
        _SPOKEN,
        codes=_codes(
            "insufficient_quota insufficient_user_quota pre_consume_token_quota_failed"
            " billing_hard_limit_reached billing_not_active insufficient_balance"
            " insufficient_credits insufficient_funds payment_required budget_exceeded"
            " entitlement_required entitlement_inactive entitlement_daily_limit_exceeded"
            " entitlement_total_limit_exceeded"
        ),
    ),
    Row(
        Verdict.REFUSED,
        _BUSY,
        codes=_codes(
            "rate_limit_exceeded rate_limit_error ratelimitexceeded model_capacity_exhausted"
            " token_concurrency_limit_reached"
        ),
    ),
    Row(
        Verdict.QUOTA,
        _SPOKEN,
        words=_words(
            r"quota (?:is |was )?(?:not enough|exhausted|insufficient|used up)",
            "insufficient (?:user |token |account )?(?:quota|balance|credits?|funds)",
            "tokenstatusexhausted",
            "pre-?consumed? (?:token )?quota failed",
            "exceeded your current quota",
            "billing (?:hard )?limit",
            "billed users",
            "billing to be enabled",
            "billing details",
            "(?:credit )?balance is too low",
            "额度已?(?:用尽|耗尽)",
            "[额余配][度额]不足",
            "预扣费额度失败",
            "欠费",
        ),
    ),
    Row(
        Verdict.REJECTED,
        _SUCCESS | {400},
        codes=_codes(
            "invalid_api_key authentication_error auth_error unauthenticated api_key_invalid"
        ),
        authentication=True,
    ),
    # After sending: the work was handed on, and its end was not seen.
    Row(
        Verdict.UNKNOWN,
        _FAULTY,
        codes=_codes(
            "do_request_failed read_response_body_failed bad_response_body bad_response"
            " empty_response aws_invoke_error channel:response_time_exceeded"
            " origin_gateway_timeout cf_gateway_timeout 408 499 502 504 520 524"
            " get_channel_failed"  # new-api says it only of a second try
            " new_api_panic one_api_panic"  # may come at any moment
        ),
    ),
    # At 403 such a code means that the key is not at fault.
    Row(
        Verdict.REJECTED,
        _SUCCESS | _FAULTY | {403},
        codes=_codes(
            "invalid_request invalid_request_error invalid_argument bad_request_body"
            " read_request_body_failed convert_request_failed count_token_failed"
            " gen_relay_info_failed invalid_api_type model_price_error model_not_found"
            " api_not_implemented sensitive_words_detected prompt_blocked"
            " content_policy_violation content_filter moderation_blocked"
        ),
    ),
    Row(
        Verdict.REJECTED,
        _SUCCESS | _FAULTY | {403},
        words=_words(
            "content[ _]policy",
            "safety system",
            "responsible ai",
            "sensitive[ _]words?",
            "prohibited content",
            "usage guidelines",
            "does not contain 'predictions'",  # litellm on Vertex's {} for a blocked prompt
            "敏感词",
            "内容审核",
            "违规",
        ),
    ),
    Row(Verdict.REJECTED, _SUCCESS | _FAULTY, words=_words("无可用渠道", "no available channels?")),
    # Here and not among the codes above: its words are the upstream's, which may be permanent.
    Row(Verdict.UNKNOWN, _FAULTY, codes=_codes("bad_response_status_code")),
    Row(
        Verdict.UNKNOWN,
        _FAULTY,
        words=_words(
            r"time[ds]?[ -]?out",
            "deadline exceeded",
            r"\beof\b",
            "connection (?:was )?(?:reset|closed|aborted)",
            "socket hang up",
            "disconnected",
            # Envoy's 503s; its "connection failure" and "overflow" never reached the origin.
            "reset reason: (?:connection termination|remote reset|local reset|protocol error)",
            "请求上游",
            "超时",
        ),
    ),
    Row(Verdict.REFUSED, {503}, words=_words("queue", "排队", "队列")),
    Row(Verdict.REFUSED, {503}, retry_after=True),
)

STATUSES: Final[Mapping[int, Verdict]] = MappingProxyType(
    {
        402: Verdict.QUOTA,
        408: Verdict.UNKNOWN,
        425: Verdict.REFUSED,
        429: Verdict.REFUSED,
        500: Verdict.FAILED,
        503: Verdict.FAILED,
        # Cloudflare never reached the origin: down, no connection, no route, no TLS, no tunnel.
        521: Verdict.REFUSED,
        522: Verdict.REFUSED,
        523: Verdict.REFUSED,
        525: Verdict.REFUSED,
        526: Verdict.REFUSED,
        529: Verdict.FAILED,
        530: Verdict.REFUSED,
    }
)

_AUTHENTICATION = frozenset({401, 403, 407})


def look_up(
    status: int, envelope: Envelope, headers: Mapping[str, str], server_errors_charged: bool
) -> tuple[Verdict, bool]:
    """Return what an answer that is not a success means, and whether the key is at fault.

    Args:
        status: The HTTP status, or the one that an error inside a 2xx answer gives as its code.
        envelope: What the gateway says.
        headers: The answer's headers, a case-insensitive mapping.
        server_errors_charged: Whether to take FAILED as UNKNOWN.
    """
    named = (envelope.code, envelope.type, *envelope.reasons)
    names = [name.lower() for name in named if name]
    heard = "\n".join([*names, (envelope.message or "").lower()])
    later = bool(headers.get("Retry-After"))
    row = next((row for row in ROWS if row.fits(status, names, heard, later)), None)
    if row is not None:
        return row.verdict, row.authentication
    verdict = STATUSES.get(status)
    if verdict is None:
        verdict = Verdict.REJECTED if 300 <= status < 500 else Verdict.UNKNOWN
    if verdict is Verdict.FAILED and server_errors_charged:
        verdict = Verdict.UNKNOWN
    return verdict, status in _AUTHENTICATION
