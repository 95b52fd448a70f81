"""The table of verdicts on answers, as data to be checked line by line.

A gateway's status is often wrong, its code and words less so: ``ROWS`` is asked first, from top
to bottom, then ``STATUSES``, then the class of the status.

What is not known to be free is UNKNOWN. From 500 on, and in an error inside a 2xx, an answer is
free only by a row that knows its code or words as said before any work; words that the request
itself holds prove nothing, for the answer may quote it. A doubt counts wherever it is said. What a
front writes in
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


@attrs.frozen(eq=False, repr=False)
class Row:
    """One line of the table; it fits the statuses and the page that it names, by codes or words.

    Args:
        verdict: What an answer that fits means.
        statuses: The HTTP statuses it is about.
        codes: The error's code, type or reason is one of these, in lower case; or
        words: a pattern, in lower case, is found in its code, type, reasons or message.
        page: It is about what is no JSON, words of a front; other rows, from 500 on, are not.
        authentication: The key is at fault.
    """

    verdict: Verdict
    statuses: Container[int]
    codes: frozenset[str] = frozenset()
    words: str | None = None
    page: bool = False
    authentication: bool = False

    def fits(self, status: int, names: list[str], heard: Heard, page: bool) -> bool:
        """Return whether an answer is one that this row is about.

        Args:
            status: Its HTTP status.
            names: Its code, type and reasons, in lower case.
            heard: What it says.
            page: Whether it is no JSON.
        """
        return (
            status in self.statuses
            and (self.page == page or (status < 500 and not self.page))
            and (
                not self.codes.isdisjoint(names)
                or (self.words is not None and heard.says(self.words, doubt=self.verdict is _DOUBT))
            )
        )


@attrs.frozen(eq=False, repr=False)
class Heard:
    """What an answer says, in lower case.

    Args:
        words: Its code, type, reasons and message.
        whole: All of its text.
        request: The request's own body, which it may quote.
    """

    words: str
    whole: str
    request: str

    def says(self, words: str, *, doubt: bool) -> bool:
        """Return whether it says such words of its own; a doubt may stand anywhere in it."""
        # Patterns are compiled, and kept, once they are asked for: few programs ever need them.
        found = re.search(words, self.words) is not None
        if doubt:
            return found or re.search(words, self.whole) is not None
        return found and re.search(words, self.request) is None


def _codes(names: str) -> frozenset[str]:
    return frozenset(names.split())


def _words(*patterns: str) -> str:
    return "|".join(patterns)


_DOUBT = Verdict.UNKNOWN
_SUCCESS = frozenset(range(200, 300))
_CLIENT = frozenset(range(400, 500))
_FAULTY = frozenset({500, 501, 503, 529})
_BUSY = _SUCCESS | {429, 500, 503, 529}
# Cloudflare never reached the origin: down, no route, no TLS, a bad certificate, no tunnel. Not
# 522, which it also says of a request that was passed on (its "Error 522" page, 2026).
UNREACHED = frozenset({521, 523, 525, 526, 530})
# Where a body's code or words are believed. Not 408, 502, 504, 52x: a front wrote those, and
# whatever stands behind it may have gone on.
_SPOKEN = _SUCCESS | (_CLIENT - {408}) | _FAULTY

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
    # The plainest of these under a 4xx, too, which may be the gateway's own choice; not of a key.
    Row(
        Verdict.UNKNOWN,
        _CLIENT - {401, 403, 407},
        words=_words(
            r"\btimed out\b",
            "deadline exceeded",
            r"\bunexpected eof\b",
            "connection (?:was )?(?:reset|aborted|closed|lost)",
            "socket hang up",
            "fetch failed",
            r"\beconn[a-z]+",
        ),
    ),
    # After the work: what was drawn was held back or went astray, and may be billed. xAI charges a
    # fee for a violation of its usage guidelines (docs.x.ai, pricing), Vertex says that there is
    # none; BFL says "content moderated" of a result, and "request moderated" of a prompt.
    Row(
        Verdict.UNKNOWN,
        _SUCCESS | _CLIENT | _FAULTY,
        codes=_codes("image_upscale_failed"),
        words=_words(
            r"usage guidelines(?![\s\S]*not be charged)",
            "content[ _]moderated",
            r"(?:generated|output|resulting) (?:images?|content|results?) (?:\S+ ){0,4}"
            "(?:block|filter|reject|flag|moderat|violat|withh|remov|unsafe|sensitive)",
            r"\boutput[ _](?:moderation|(?:was )?(?:blocked|filtered|flagged|rejected))",
            r"(?<!not )(?<!no image )(?<!no images )\b(?:was|were|been|already)"
            " (?:generated|billed|charged)",
            r"\bafter (?:the )?(?:image )?generation\b",
            "(?:已|生成后)(?:经)?(?:生成|扣费|计费|收费|扣款)",
        ),
    ),
    # LiteLLM posts several times for one order, names the error of the last post, and then that of
    # the model it fell back to, under the first one's status: a 429, or 521, may follow a lost
    # answer (1.80.5 before an upstream that drops, recorded 2026-11).
    Row(
        Verdict.UNKNOWN,
        _SUCCESS | _CLIENT | _FAULTY | UNREACHED,
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
        words=_words(
            "content[ _]policy",
            "safety system",
            "responsible ai",
            "sensitive[ _]words?",
            "prohibited content",
            "usage guidelines",  # with the words that it is not charged
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
        _FAULTY | UNREACHED,
        codes=_codes("bad_response_status_code upstream_error"),
    ),
    # new-api's limiter lost its Redis, in the middleware before any channel is chosen
    # (middleware/model-rate-limit.go, read 2026-11).
    Row(Verdict.FAILED, _FAULTY, words=_words(r"\brate_limit_check_failed\b")),
    # LiteLLM makes a 400 of its own from an error inside an upstream's 200 (1.80.5, recorded
    # 2026-11): there only words that blame the request prove that nothing was drawn.
    Row(
        Verdict.UNKNOWN,
        frozenset({400}),
        words=_words(
            r"litellm\.badrequesterror: \w+exception - (?![\s\S]*(?:error code: 4|invalid|unknown"
            "|unsupported|unexpected|required|must|not (?:supported|found|allow|exist|permitted)"
            "|prompt|parameter|argument|safety|policy|too (?:long|large|many)))"
        ),
    ),
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
    # nginx's limit_req and limit_conn (their documentation, 2026): it says 502 and 504 of its
    # origins. Other servers use the same title, so the page must name it.
    Row(
        Verdict.REFUSED,
        frozenset({503}),
        words=_words(
            r"before headers\. reset reason: (?:(?:remote |local )?connection failure|overflow)\b",
            r"^503 service temporarily unavailable\n(?:nginx|openresty)\b",
        ),
        page=True,
    ),
)

STATUSES: Final[Mapping[int, Verdict]] = MappingProxyType(
    {
        303: Verdict.UNKNOWN,  # the order was taken, and what came of it is elsewhere
        402: Verdict.QUOTA,
        408: Verdict.UNKNOWN,
        424: Verdict.UNKNOWN,
        425: Verdict.REFUSED,
        429: Verdict.REFUSED,
        **dict.fromkeys(UNREACHED, Verdict.REFUSED),
        499: Verdict.UNKNOWN,
    }
)
STATED: Final = frozenset({500, 503, 529})
"""Statuses that ``server_errors_charged=False`` states to be free where the table does not know."""
