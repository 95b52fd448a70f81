"""The table of verdicts on answers, as data to be checked line by line.

A gateway's status is often wrong, its code and words less so: ``ROWS`` is asked first, from top
to bottom, then ``STATUSES``, then the class of the status.

What is not known to be free is UNKNOWN. From 500 on, and in an error inside a 2xx, an answer is
free only by a row that knows its code or words as said before any work. What a front writes in
place of an API (a web page, plain text, XML, nothing) proves nothing there, but for the pages in
``ROWS`` and the statuses in ``STATUSES`` that say that nothing was passed on.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import attrs

from imagen_async.errors import Verdict

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from imagen_async.wire.error_body import ErrorBody


@attrs.frozen
class Row:
    """One line of the table; it fits when everything it names fits.

    Args:
        verdict: What an answer that fits means.
        statuses: The HTTP statuses it is about.
        codes: The error's code, type or reason is one of these, in lower case.
        words: A pattern, in lower case, found in its code, type, reasons or message.
        page: It is about what is no JSON, words of a front; other rows, from 500 on, are not.
        authentication: The key is at fault.
    """

    verdict: Verdict
    statuses: Container[int]
    codes: frozenset[str] | None = None
    words: re.Pattern[str] | None = None
    page: bool = False
    authentication: bool = False

    def fits(self, status: int, names: list[str], heard: str, page: bool) -> bool:
        """Return whether an answer is one that this row is about.

        Args:
            status: Its HTTP status.
            names: Its code, type and reasons, in lower case.
            heard: These and its message, in lower case.
            page: Whether it is no JSON.
        """
        return (
            status in self.statuses
            and (self.page == page or (status < 500 and not self.page))
            and (self.codes is None or not self.codes.isdisjoint(names))
            and (self.words is None or self.words.search(heard) is not None)
        )


@attrs.frozen
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


def _codes(names: str) -> frozenset[str]:
    return frozenset(names.split())


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


_SUCCESS = frozenset(range(200, 300))
_FAULTY = frozenset({500, 501, 503, 529})
_BUSY = _SUCCESS | {429, 500, 503, 529}
# Cloudflare never reached the origin: down, no route, no TLS, a bad certificate, no tunnel. Not
# 522, which it also says of a request that was passed on (its "Error 522" page, 2026).
_UNREACHED = frozenset({521, 523, 525, 526, 530})
# Where a body's code or words are believed. Not 408, 502, 504, 52x: a front wrote those, and
# whatever stands behind it may have gone on.
_SPOKEN = _SUCCESS | (frozenset(range(400, 500)) - {408}) | _FAULTY

ROWS: Final[tuple[Row, ...]] = (
    # litellm on Vertex's {} for a blocked prompt (BerriAI/litellm#8221): the answer was seen.
    Row(
        Verdict.REJECTED,
        _SUCCESS | _FAULTY,
        words=_words("does not contain 'predictions'"),
    ),
    # After sending: the work was handed on, and its end was not seen. First, for an error may
    # quote several others, and one of these is enough for a doubt.
    Row(
        Verdict.UNKNOWN,
        _SUCCESS | _FAULTY,
        codes=_codes(
            "do_request_failed read_response_body_failed bad_response_body bad_response"
            " empty_response aws_invoke_error channel:response_time_exceeded"
            " origin_gateway_timeout cf_gateway_timeout 408 499 502 504 520 524"
            " get_channel_failed"  # new-api says it only of a second try
            " new_api_panic one_api_panic"  # may come at any moment
        ),
    ),
    Row(
        Verdict.UNKNOWN,
        _SUCCESS | _FAULTY,
        words=_words(
            r"time[ds]?[ -]?out",
            "deadline",
            r"\beof\b",
            "connection",
            "(?:side|peer) closed",
            "fetch failed",
            "socket",
            "network",
            "disconnected",
            "broken pipe",
            r"\becon[a-z]+",  # ECONNRESET and its kind
            "premature",
            "terminated",
            "unexpected end",
            "expecting (?:value|property|'[^']')",  # Python's json, of a cut body
            "请求上游",
            "超时",
        ),
    ),
    # LiteLLM posts several times for one order, names the error of the last post, and then that of
    # the model it fell back to, under the first one's status: a 429, or 521, may follow a lost
    # answer (1.80.5 before an upstream that drops, recorded 2026-11).
    Row(
        Verdict.UNKNOWN,
        _SUCCESS | frozenset(range(400, 500)) | _FAULTY | _UNREACHED,
        words=_words(
            r"litellm\.(?:api|timeout|internalserver|badgateway)",
            r"litellm\.serviceunavailable[\s\S]*error doing the fallback",
            r"error doing the fallback: litellm\.serviceunavailable",
        ),
    ),
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
            "敏感词",
            "内容审核",
            "违规",
        ),
    ),
    Row(
        Verdict.REJECTED,
        _SUCCESS | _FAULTY,
        words=_words(
            "无可用渠道",
            "no available channels?",
            r"missing \d+ required positional argument",  # litellm, of its own function
        ),
    ),
    # Here and not among the codes above: its words are the upstream's, which may be permanent. Its
    # status is that of the last of several tries.
    Row(
        Verdict.UNKNOWN,
        _FAULTY | _UNREACHED,
        codes=_codes("bad_response_status_code upstream_error"),
    ),
    # new-api's limiter lost its Redis, in the middleware before any channel is chosen
    # (middleware/model-rate-limit.go, read 2026-11).
    Row(Verdict.FAILED, _FAULTY, words=_words(r"\brate_limit_check_failed\b")),
    # Overload, said at the door: OpenAI's error codes, Anthropic's 529, Google's 503 UNAVAILABLE in
    # the two wordings of its API, Hugging Face's cold model, queues of image gateways.
    Row(
        Verdict.REFUSED,
        _BUSY,
        codes=_codes("overloaded_error server_is_overloaded slow_down provider_overloaded"),
    ),
    Row(
        Verdict.REFUSED,
        _FAULTY,
        words=_words(
            "(?:model|engine) is (?:currently |temporarily )?overloaded",
            "experiencing high demand",
            "model .{0,200}is currently loading",
            "queue (?:is |was )?full",
            "too many (?:queued|pending|concurrent) requests",
            "rate[ _]limit (?:is |was )?(?:reached|exceeded|hit)",
            "排队人数",
            "队列已?满",
        ),
    ),
    # Envoy's "UF" and "UO": no connection to the origin, or no room for one (Envoy's documentation
    # of response flags, 2026). Its other reset reasons come after the request was passed on, and
    # so may these where it says "retried and the latest reset reason".
    Row(
        Verdict.REFUSED,
        frozenset({503}),
        words=_words(
            r"before headers\. reset reason: (?:(?:remote |local )?connection failure|overflow)\b"
        ),
        page=True,
    ),
    # nginx's limit_req and limit_conn (their documentation, 2026): it says 502 and 504 of its
    # origins. Other servers use the same title, so the page must name it.
    Row(
        Verdict.REFUSED,
        frozenset({503}),
        words=_words(r"^503 service temporarily unavailable\n(?:nginx|openresty)\b"),
        page=True,
    ),
)

STATUSES: Final[Mapping[int, Verdict]] = MappingProxyType(
    {
        402: Verdict.QUOTA,
        408: Verdict.UNKNOWN,
        425: Verdict.REFUSED,
        429: Verdict.REFUSED,
        **dict.fromkeys(_UNREACHED, Verdict.REFUSED),
        499: Verdict.UNKNOWN,
    }
)
STATED: Final = frozenset({500, 503, 529})
"""Statuses that ``server_errors_charged=False`` states to be free where the table does not know."""

OPEN: Final = Found(Verdict.UNKNOWN, authentication=False, refusal=False)
"""Nobody can say what became of the request."""
PENDING: Final = Found(Verdict.UNKNOWN, authentication=False, refusal=True)
"""The first request under its key is in the making; this one was turned away, and buys nothing."""
OTHER_BODY: Final = Found(Verdict.REJECTED, authentication=False, refusal=True)
"""Another body was sent under its key."""

_NAMES_KEY = re.compile("idempoten", re.IGNORECASE)
_AUTHENTICATION = frozenset({401, 403, 407})
_REFUSALS = frozenset({Verdict.REFUSED, Verdict.QUOTA, Verdict.REJECTED})


def look_up(status: int, envelope: ErrorBody, *, server_errors_charged: bool) -> Found:
    """Return what an answer that is not a success means.

    Args:
        status: The HTTP status, or the one that an error inside a 2xx answer gives as its code.
        envelope: What the gateway says.
        server_errors_charged: Whether 500, 503 and 529 that the table does not know may have been
            charged.
    """
    named = (envelope.code, envelope.type, *envelope.reasons)
    names = [name.lower() for name in named if name]
    heard = "\n".join([*names, *filter(None, (envelope.message, envelope.footer))]).lower()
    page = envelope.page
    row = next((row for row in ROWS if row.fits(status, names, heard, page)), None)
    if row is not None:
        verdict, authentication = row.verdict, row.authentication
    else:
        unlisted = Verdict.REJECTED if 300 <= status < 500 else Verdict.UNKNOWN
        verdict, authentication = STATUSES.get(status, unlisted), status in _AUTHENTICATION
        if status in STATED and not server_errors_charged:
            verdict = Verdict.FAILED
    return Found(
        verdict,
        authentication,
        refusal=status == 429 or (verdict in _REFUSALS and not page and status not in _UNREACHED),
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
