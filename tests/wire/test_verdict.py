"""What every answer and every failure means, and what it may have cost."""

# ruff: noqa: RUF001 - the gateways' own words, verbatim

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from imagen_async.errors import Charge, ImagenError, OutcomeUnknownError, QuotaError, Verdict
from imagen_async.wire.verdict import (
    CHARGES,
    ERRORS,
    WORDS_LIMIT,
    FailureKind,
    Judgement,
    error_for,
    judge_error_document,
    judge_failure,
    judge_spoiled,
    judge_status,
)
from imagen_async.wire.verdict_table import ROWS

NONE = CIMultiDict[str]()


def page(title: str, server: str = "nginx/1.22.1") -> bytes:
    """Return nginx's own error page, byte for byte."""
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1>"
        f"</center>\r\n<hr><center>{server}</center>\r\n</body>\r\n</html>\r\n"
    ).encode()


def error(message: str, kind: str = "new_api_error", code: object = "", param: str = "") -> bytes:
    """Return an error in the envelope of one-api and new-api."""
    body = {"message": message, "type": kind, "param": param, "code": code}
    return json.dumps({"error": body}, ensure_ascii=False).encode()


def google(code: int, message: str, status: str, *quotas: str) -> bytes:
    """Return an error in Google's envelope, with the ids of the quotas it names."""
    failure = {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": quota} for quota in quotas],
    }
    body = {"code": code, "message": message, "status": status, "details": [failure]}
    return json.dumps({"error": body}).encode()


PLAN = "You exceeded your current quota, please check your plan and billing details."
GOOGLE_PLAN = (
    f"{PLAN} For more information on this error, head to: "
    "https://ai.google.dev/gemini-api/docs/rate-limits."
)
VERTEX = (
    "Quota exceeded for aiplatform.googleapis.com/online_prediction_requests_per_base_model with "
    "base model: imagen-4.0-generate. Please submit a quota increase request."
)
SATURATED = "当前分组上游负载已饱和，请稍后再试 (request id: 20250423020142736330894dLoIRrS6)"
VERTEX_EMPTY = "litellm.APIConnectionError: response does not contain 'predictions', got {}"
ENVOY = b"upstream connect error or disconnect/reset before headers. reset reason: "

REFUSED, QUOTA, REJECTED = Verdict.REFUSED, Verdict.QUOTA, Verdict.REJECTED
FAILED, UNKNOWN, SPOILED = Verdict.FAILED, Verdict.UNKNOWN, Verdict.SPOILED

ANSWERS: dict[str, tuple[int, bytes, Verdict]] = {
    # 400
    "prompt missing": (
        400,
        error("prompt is required (request id: 2026081201)", "one_api_error", "prompt_missing"),
        REJECTED,
    ),
    "no images": (400, error("no images generated", code="no_images"), REJECTED),
    "moderation blocked": (
        400,
        error(
            "Your request was rejected as a result of our safety system.",
            "user_error",
            "moderation_blocked",
        ),
        REJECTED,
    ),
    "billing hard limit": (
        400,
        error(
            "Billing hard limit has been reached",
            "invalid_request_error",
            "billing_hard_limit_reached",
        ),
        QUOTA,
    ),
    "billing hard limit, words": (400, error("Billing hard limit has been reached"), QUOTA),
    "google billed users": (
        400,
        google(
            400, "Imagen API is only accessible to billed users at this time.", "INVALID_ARGUMENT"
        ),
        QUOTA,
    ),
    "google invalid argument": (
        400,
        google(400, "aspectRatio is not supported", "INVALID_ARGUMENT"),
        REJECTED,
    ),
    # 401
    "invalid token, chinese": (401, error("无效的令牌"), REJECTED),
    "invalid token": (401, error("Invalid token"), REJECTED),
    "token exhausted, chinese": (
        401,
        error("该令牌额度已用尽 TokenStatusExhausted[sk-ab***yz]"),
        QUOTA,
    ),
    "token exhausted": (
        401,
        error("This token quota is exhausted, please top up or use another one"),
        QUOTA,
    ),
    "litellm auth": (401, error("Authentication Error", "auth_error", "401", "None"), REJECTED),
    "fastapi": (401, b'{"detail":"Not authenticated"}', REJECTED),
    # 402
    "stability": (402, b'{"errors":["no credits left"],"name":"payment_required"}', QUOTA),
    "bare 402": (402, b"", QUOTA),
    # 403
    "user quota": (403, error("user quota is not enough", code="insufficient_user_quota"), QUOTA),
    "user quota, words": (403, error("user quota is not enough"), QUOTA),
    "pre-consumed": (
        403,
        error("image pre-consumed quota failed, user quota: ＄0.01, need quota: ＄0.04"),
        QUOTA,
    ),
    "pre-consume, chinese": (
        403,
        error("预扣费额度失败, 用户剩余额度: ＄0.53, 需要预扣费额度: ＄2.90"),
        QUOTA,
    ),
    "user quota, chinese": (403, error("用户额度不足, 剩余额度: ＄0.00"), QUOTA),
    "balance, chinese": (403, error("账户余额不足"), QUOTA),
    "token quota": (
        403,
        error("token quota is not enough, token remain quota: ＄0.01, need quota: ＄0.04"),
        QUOTA,
    ),
    "upstream balance": (
        403,
        error("Insufficient balance", code="bad_response_status_code"),
        QUOTA,
    ),
    "no right to model": (403, error("该令牌无权访问模型 imagen4"), REJECTED),
    "banned": (403, error("用户已被封禁"), REJECTED),
    "cloudflare challenge": (403, page("Just a moment...", "cloudflare"), REJECTED),
    "content at 403": (403, error("violates our content policy"), REJECTED),
    "google's older daily limit": (
        403,
        b'{"error":{"errors":[{"reason":"dailyLimitExceeded"}],"code":403,"message":"Daily Limit"}}',
        QUOTA,
    ),
    # 404, 405, 413, 422, 424, 501
    "invalid url": (404, error("Invalid URL (POST /v1/x)", "invalid_request_error"), REJECTED),
    "method": (405, b'{"detail":"Method Not Allowed"}', REJECTED),
    "nginx 413": (413, page("413 Request Entity Too Large"), REJECTED),
    "read body": (413, error("too large", code="read_request_body_failed"), REJECTED),
    "fastapi 422": (
        422,
        b'{"detail":[{"loc":["body","n"],"msg":"too large","type":"le"}]}',
        REJECTED,
    ),
    "upscale": (424, error("no", code="image_upscale_failed"), REJECTED),
    "not implemented": (501, error("API not implemented", code="api_not_implemented"), REJECTED),
    "bare 501": (501, b"", UNKNOWN),
    # 408, 409, 425
    "408": (408, b"", UNKNOWN),
    "408 that says quota": (408, error("user quota is not enough"), UNKNOWN),
    "409, key not used before": (409, b"", REJECTED),
    "425": (425, b"", REFUSED),
    # 429
    "empty 429": (429, b"", REFUSED),
    "limit, chinese": (429, error("您已达到请求数限制：1分钟内最多请求10次"), REFUSED),
    "limit": (429, error("You have reached the request limit: 10 in 1 minute"), REFUSED),
    "saturated": (429, error(SATURATED), REFUSED),
    "saturated, upstream code": (
        429,
        error(SATURATED, "billing_not_active", "billing_not_active"),
        REFUSED,
    ),
    "saturated, wrapped": (
        429,
        error(SATURATED, "upstream_error", "bad_response_status_code", "404"),
        REFUSED,
    ),
    "openai rate": (
        429,
        error(
            "Rate limit reached on requests per day (RPD): Limit 200. Please try again in 7m12s."
            " Add a payment method: https://platform.openai.com/account/billing",
            "requests",
            "rate_limit_exceeded",
        ),
        REFUSED,
    ),
    "openai quota": (429, error(PLAN, "insufficient_quota", "insufficient_quota"), QUOTA),
    "openai quota, words": (429, error(PLAN), QUOTA),
    "google per minute": (
        429,
        google(
            429, GOOGLE_PLAN, "RESOURCE_EXHAUSTED", "GenerateRequestsPerMinutePerProjectPerModel"
        ),
        REFUSED,
    ),
    "google per day": (
        429,
        google(429, GOOGLE_PLAN, "RESOURCE_EXHAUSTED", "GenerateRequestsPerDayPerProjectPerModel"),
        QUOTA,
    ),
    "google, limit 0": (
        429,
        google(
            429,
            f"{GOOGLE_PLAN}\n* Quota exceeded for metric: x_requests, limit: 0",
            "RESOURCE_EXHAUSTED",
        ),
        QUOTA,
    ),
    "google, words alone": (429, error(GOOGLE_PLAN), REFUSED),
    "google resource": (
        429,
        google(429, "Resource has been exhausted (e.g. check quota).", "RESOURCE_EXHAUSTED"),
        REFUSED,
    ),
    "vertex in an array": (429, b"[" + google(429, VERTEX, "RESOURCE_EXHAUSTED") + b"]", REFUSED),
    "vertex, words alone": (429, error(VERTEX), REFUSED),
    "vertex per day": (429, error("Quota exceeded for a.googleapis.com/requests_per_day"), QUOTA),
    "google at 500": (500, google(429, "no", "RESOURCE_EXHAUSTED"), REFUSED),
    "google per minute at 500": (500, error("Quota exceeded for a/images_per_minute"), REFUSED),
    "litellm over vertex": (
        429,
        error(f"litellm.RateLimitError: VertexAIException - {VERTEX}", code="429"),
        REFUSED,
    ),
    "cloudflare 1015": (429, b"error code: 1015", REFUSED),
    # 500
    "invalid request": (500, error("prompt is required", code="invalid_request"), REJECTED),
    "sensitive": (
        500,
        error("sensitive_words_detected", code="sensitive_words_detected"),
        REJECTED,
    ),
    "convert": (500, error("no", code="convert_request_failed"), REJECTED),
    "price": (500, error("模型价格未配置", code="model_price_error"), REJECTED),
    "content, chinese": (500, error("提示词包含敏感词"), REJECTED),
    "vertex filtered": (500, error(VERTEX_EMPTY, "None", "500", "None"), REJECTED),
    "quota at 500": (500, error("no", code="insufficient_user_quota"), QUOTA),
    "do request": (500, error("请求上游地址失败", code="do_request_failed"), UNKNOWN),
    "do request, typed": (500, error("no", "invalid_request_error", "do_request_failed"), UNKNOWN),
    "read response": (500, error("no", code="read_response_body_failed"), UNKNOWN),
    "bad body": (500, error("no", code="bad_response_body"), UNKNOWN),
    "second channel": (
        500,
        error("分组 default 下模型 x 的可用渠道不存在（retry）", code="get_channel_failed"),
        UNKNOWN,
    ),
    "panic": (500, error("Panic detected", "new_api_panic"), UNKNOWN),
    "upstream 524": (500, error("", "upstream_error", "bad_response_status_code", "524"), UNKNOWN),
    "upstream refuses content": (
        500,
        error("blocked by our content policy", code="bad_response_status_code"),
        REJECTED,
    ),
    "cf timeout at 500": (500, error("no", "cf_gateway_timeout", 524), UNKNOWN),
    "timeout words": (500, error("litellm.Timeout: Request timed out."), UNKNOWN),
    "timeout, chinese": (500, error("上游请求超时"), UNKNOWN),
    "go deadline": (500, error("context deadline exceeded"), UNKNOWN),
    "eof": (500, error('Post "https://a/b?key=1": unexpected EOF'), UNKNOWN),
    "litellm text": (500, b"Internal Server Error", FAILED),
    "missing prompt at litellm": (
        500,
        error("missing 1 required positional argument: 'prompt'"),
        FAILED,
    ),
    # 502, 504, 52x
    "nginx 502": (502, page("502 Bad Gateway"), UNKNOWN),
    "openresty 502": (502, page("502 Bad Gateway", "openresty"), UNKNOWN),
    "cloudflare 502": (502, b"error code: 502\n", UNKNOWN),
    "litellm 502": (502, error("litellm.BadGatewayError", "None", "502", "None"), UNKNOWN),
    "sub2api 502": (502, error("Upstream request failed", "upstream_error"), UNKNOWN),
    "502 that says quota": (502, error("user quota is not enough"), UNKNOWN),
    "nginx 504": (504, page("504 Gateway Time-out"), UNKNOWN),
    "524 html": (524, page("x | 524: A timeout occurred", "cloudflare"), UNKNOWN),
    "524 json, retryable": (
        524,
        b'{"error":{"type":"origin_gateway_timeout","retryable":true,"retry_after":120}}',
        UNKNOWN,
    ),
    "520": (520, b"error code: 520", UNKNOWN),
    "522 that says timed out": (522, page("x | 522: Connection timed out", "cloudflare"), REFUSED),
    "530 tunnel": (530, b"error code: 1033", REFUSED),
    # 503
    "no channel, chinese": (
        503,
        error("当前分组 default 下对于模型 imagen4 无可用渠道", "one_api_error"),
        REJECTED,
    ),
    "no channel": (
        503,
        error("No available channel for model imagen4", code="model_not_found"),
        REJECTED,
    ),
    "no channel, words": (503, error("No available channels for model imagen4"), REJECTED),
    "queue": (503, error("image queue is full, please retry later"), REFUSED),
    "queue, chinese": (503, error("排队人数过多，请稍后再试"), REFUSED),
    "queue, chinese, full": (503, error("队列已满"), REFUSED),
    "queue that timed out": (503, error("timed out in the queue"), UNKNOWN),
    "envoy dropped": (503, ENVOY + b"connection termination", UNKNOWN),
    "envoy never connected": (503, ENVOY + b"connection failure", FAILED),
    "capacity": (503, google(503, "no", "MODEL_CAPACITY_EXHAUSTED"), REFUSED),
    "not ready": (503, b'{"detail":"Service not ready"}', FAILED),
    "529": (529, error("Overloaded", "overloaded_error"), FAILED),
    "new upstream 505": (505, b"", UNKNOWN),
    # 1xx, 3xx and the rest
    "101": (101, b"", UNKNOWN),
    "301": (301, page("301 Moved Permanently"), REJECTED),
    "999": (999, b"", UNKNOWN),
}


@pytest.mark.parametrize(("status", "body", "verdict"), ANSWERS.values(), ids=ANSWERS)
def test_every_known_answer_has_its_verdict(status: int, body: bytes, verdict: Verdict) -> None:
    """Each body that gateways were seen to send means what the table says, and costs as much."""
    judgement = judge_status(status, NONE, body)
    assert judgement.verdict is verdict
    assert judgement.charge is CHARGES[verdict]
    assert judgement.again is (verdict in {REFUSED, FAILED, UNKNOWN})
    assert judgement.status == status
    assert not judgement.conflict


@pytest.mark.parametrize(
    "words",
    [
        "blocked by our content policy",
        "content_policy_violation in the upstream's words",
        "rejected by our safety system",
        "filtered by Responsible AI",
        "sensitive words detected",
        "PROHIBITED CONTENT",
        "against the usage guidelines",
        "含有敏感词",
        "未通过内容审核",
        "内容违规",
    ],
)
@pytest.mark.parametrize("status", [500, 503])
def test_refused_content_is_not_sent_again(words: str, status: int) -> None:
    """Words of a content policy under a server error make it permanent."""
    assert judge_status(status, NONE, error(words)).verdict is REJECTED


@pytest.mark.parametrize(
    "words",
    [
        "Request timed out",
        "upstream request timeout",
        "504 Gateway Time-out",
        "context deadline exceeded",
        "unexpected EOF",
        "read: connection reset by peer",
        "Connection aborted",
        "socket hang up",
        "Server disconnected",
        "reset reason: remote reset",
        "请求上游地址失败",
        "请求超时",
    ],
)
@pytest.mark.parametrize("status", [500, 503, 529])
def test_words_of_a_lost_answer_are_unknown(words: str, status: int) -> None:
    """A server error that tells of a lost answer behind it may have cost an image."""
    assert judge_status(status, NONE, error(words)).verdict is UNKNOWN


BARE = {
    **dict.fromkeys([402], QUOTA),
    **dict.fromkeys([425, 429, 521, 522, 523, 525, 526, 530], REFUSED),
    **dict.fromkeys([500, 503, 529], FAILED),
    408: UNKNOWN,
}


def test_every_status_alone_has_its_verdict() -> None:
    """A status without words is judged by the table, then by its class."""
    judged = {status: judge_status(status, NONE, b"").verdict for status in range(100, 1000)}
    by_class = {status: REJECTED if 300 <= status < 500 else UNKNOWN for status in range(100, 1000)}
    assert judged == by_class | BARE


def test_every_code_stands_in_one_row() -> None:
    """A code in two rows would be read by the first alone, and one in capitals never matches."""
    codes = [code for row in ROWS for code in row.codes or ()]
    assert len(codes) == len(set(codes))
    assert codes == [code.lower() for code in codes]


def test_503_with_retry_after_is_a_refusal() -> None:
    """A server that names a time to come back has not begun; a 500 that does may have failed."""
    later = CIMultiDict({"retry-after": "30"})
    assert judge_status(503, later, b"").verdict is REFUSED
    assert judge_status(500, later, b"").verdict is FAILED
    assert judge_status(503, later, error("no", code="do_request_failed")).verdict is UNKNOWN


@pytest.mark.parametrize("status", [500, 503, 529])
def test_server_errors_can_be_taken_as_charged(status: int) -> None:
    """With server_errors_charged a failed server is an unknown outcome that may have cost."""
    judgement = judge_status(status, NONE, b"oops", server_errors_charged=True)
    assert (judgement.verdict, judgement.charge) == (UNKNOWN, Charge.MAYBE)


def test_other_verdicts_ignore_server_errors_charged() -> None:
    """A refusal and a permanent code under 503 stay uncharged whatever that setting is."""
    queue = judge_status(503, NONE, error("queue is full"), server_errors_charged=True)
    channel = judge_status(503, NONE, error("无可用渠道"), server_errors_charged=True)
    assert (queue.verdict, channel.verdict) == (REFUSED, REJECTED)


@pytest.mark.parametrize(
    ("status", "body", "conflict"),
    [
        (409, b"", True),
        (422, error("Idempotency-Key was used with another body"), True),
        (422, error("no", code="idempotency_key_reused"), True),
        (422, error("n is too large"), False),
        (400, error("Idempotency-Key is too long"), False),
    ],
)
def test_a_refused_key_after_an_earlier_attempt_is_unknown(
    status: int, body: bytes, conflict: bool
) -> None:
    """A 409, or a 422 naming the key, says that an earlier attempt was taken: it may have cost."""
    judgement = judge_status(status, NONE, body, key_used_before=True)
    assert judgement.conflict is conflict
    assert judgement.verdict is (UNKNOWN if conflict else REJECTED)
    assert judgement.charge is (Charge.MAYBE if conflict else Charge.NO)
    assert judge_status(status, NONE, body).verdict is REJECTED


@pytest.mark.parametrize(
    ("status", "body", "authentication"),
    [
        (401, b"", True),
        (403, b"", True),
        (407, b"", True),
        (403, error("用户已被封禁"), True),
        (400, error("API key not valid.", code="invalid_api_key"), True),
        (403, error("no", code="content_policy_violation"), False),
        (403, error("rejected by our safety system"), False),
        (403, error("no access to the model", code="model_not_found"), False),
        (403, error("user quota is not enough"), False),
        (404, b"", False),
        (429, b"", False),
    ],
)
def test_a_key_at_fault_is_told_apart(status: int, body: bytes, authentication: bool) -> None:
    """Only an answer about the key itself, which no other request escapes, says authentication."""
    assert judge_status(status, NONE, body).authentication is authentication


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://api.example/v1/images?sig=secret#f", "https://api.example:"),
        ("https://u:secret@api.example:8443/secret", "https://api.example:8443:"),
        ("http://[::1]:80/x", "http://[::1]:80:"),
        ("/v1/images/secret", "base_url seems wrong."),
        ("ftp://secret/x", "base_url seems wrong."),
        ("https://secret:99999/", "base_url seems wrong."),
        ("https://[secret", "base_url seems wrong."),
        ("https:///secret", "base_url seems wrong."),
        ("", "base_url seems wrong."),
    ],
)
def test_a_redirect_names_the_origin_alone(location: str, shown: str) -> None:
    """A redirect is never followed; its origin is the likely base_url, the rest may be secret."""
    judgement = judge_status(308, CIMultiDict({"Location": location}), b"secret")
    assert judgement.verdict is REJECTED
    assert shown in judgement.message
    assert "secret" not in judgement.message


def test_x_should_retry_can_only_stop() -> None:
    """The header's false forbids another attempt; its true does not allow one."""
    stop, go = CIMultiDict({"X-Should-Retry": "False"}), CIMultiDict({"X-Should-Retry": "true"})
    assert not judge_status(429, stop, b"").again
    assert judge_status(429, go, b"").again
    assert not judge_status(400, go, b"").again


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (429, b"", "The gateway answered 429 with an empty body."),
        (429, error("rate limit reached"), "The gateway answered 429: rate limit reached."),
        (400, error("No!"), "The gateway answered 400: No!"),
        (400, error("", "t", "c"), "The gateway answered 400: c."),
        (400, error("", "t"), "The gateway answered 400: t."),
        (502, page("502 Bad Gateway"), "The gateway answered 502: 502 Bad Gateway."),
        (502, b"<html><body>no", "The gateway answered 502 with a web page."),
        (401, error("bad key sk-abcdef123456"), "The gateway answered 401: bad key ***."),
        (400, error("\x1b[2J\r\nno"), "The gateway answered 400: \\x1b[2J  no."),
    ],
)
def test_messages_say_what_happened(status: int, body: bytes, message: str) -> None:
    """A message is one printable line with the gateway's words and no key in it."""
    assert judge_status(status, NONE, body).message == message


def test_messages_quote_little() -> None:
    """At most 300 characters of the server's words are quoted."""
    message = judge_status(400, NONE, error("x" * 5000)).message
    assert message.count("x") == WORDS_LIMIT


def test_code_and_request_id_are_kept() -> None:
    """A judgement carries the gateway's code and its id, from a header or from the message."""
    judged = judge_status(400, NONE, error("no (request id: 2026Fa)", code=7))
    assert (judged.code, judged.request_id) == ("7", "2026Fa")
    headed = judge_status(400, CIMultiDict({"cf-ray": "9"}), b"")
    assert (headed.code, headed.request_id) == (None, "9")


DOCUMENTS: dict[str, tuple[object, Verdict | None]] = {
    "worker-vllm": ({"code": 404, "object": "error", "message": "no model"}, REJECTED),
    "int code": ({"error": {"code": 429, "message": "slow down"}}, REFUSED),
    "text code": ({"error": {"code": "402", "message": "pay"}}, QUOTA),
    "500": ({"error": {"code": 500, "message": "no"}}, FAILED),
    "504": ({"error": {"code": 504, "message": "no"}}, UNKNOWN),
    "known code": ({"error": {"code": "insufficient_quota", "message": "no"}}, QUOTA),
    "known words": ({"error": "image queue is full"}, UNKNOWN),
    "saturated": ({"error": {"message": SATURATED}}, REFUSED),
    "content": ({"error": {"message": "content policy", "code": None}}, REJECTED),
    "bad key": ({"error": {"code": "invalid_api_key"}}, REJECTED),
    "in-band": ({"error_code": "E17", "detail": "generation failed"}, UNKNOWN),
    "unknown code": ({"error": {"code": "x", "message": "no"}}, UNKNOWN),
    "a code that is no error": ({"error": {"code": 200, "message": "no"}}, UNKNOWN),
    "no words": ({"error": True}, UNKNOWN),
    "array of one": ([{"error": {"code": 404}}], REJECTED),
    "task": ({"task_id": "t", "status": "queued", "poll_url": "/t"}, SPOILED),
    "error beside an image": ({"error": "one failed", "data": [{"url": "u"}]}, None),
    "no images": ({"created": 1, "data": []}, None),
    "empty": ({}, None),
    "empty array": ([], None),
    "text": ("no", None),
}


@pytest.mark.parametrize(("document", "verdict"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_an_error_in_a_success_is_judged_by_its_code(
    document: object, verdict: Verdict | None
) -> None:
    """A 2xx answer whose JSON is an error goes through the same table; else it is no error."""
    judgement = judge_error_document(document, NONE, 200)
    assert (judgement and judgement.verdict) is verdict
    if judgement:
        assert judgement.charge is CHARGES[judgement.verdict]
        assert judgement.status == 200


def test_a_202_is_a_task() -> None:
    """An accepted order without an image is paid and cannot be used here."""
    judgement = judge_error_document({"id": "t"}, CIMultiDict({"x-request-id": "r"}), 202)
    assert judgement == Judgement(
        SPOILED,
        Charge.YES,
        again=False,
        message="The gateway answered with a task, not with an image.",
        status=202,
        request_id="r",
    )


def test_an_error_in_a_success_says_so() -> None:
    """The message keeps the true status, and a key at fault is told there too."""
    judged = judge_error_document({"error": {"code": 401, "message": "bad key"}}, NONE, 200)
    assert judged is not None
    assert judged.message == "The gateway answered 200 with an error: bad key."
    assert judged.authentication
    charged = judge_error_document({"error": {"code": 500}}, NONE, 200, server_errors_charged=True)
    assert charged is not None
    assert charged.verdict is UNKNOWN


def test_a_spoiled_answer_is_paid() -> None:
    """A success that cannot be used was charged and is never sent again."""
    headers = CIMultiDict({"x-request-id": "r"})
    judged = judge_spoiled("bad base64 at https://a/b?sig=1", b'{"data":[', headers, 200)
    assert (judged.verdict, judged.charge, judged.again) == (SPOILED, Charge.YES, False)
    assert judged.message == "The gateway's answer cannot be used: bad base64 at https://a/b."
    assert judged.request_id == "r"


def test_a_web_page_is_not_paid() -> None:
    """A web page with 200 means that base_url misses the API, so nothing was bought."""
    judged = judge_spoiled("not JSON", b"\n<!DOCTYPE html><html>", NONE, 200)
    assert (judged.verdict, judged.charge, judged.again) == (REJECTED, Charge.NO, False)
    assert "/v1" in judged.message


PERMANENT = {"certificate", "tls", "bad_url", "bad_header"}


@pytest.mark.parametrize("kind", FailureKind)
def test_a_failure_is_judged_by_whether_it_was_sent(kind: FailureKind) -> None:
    """Unsent costs nothing and may be tried again unless it is permanent; sent is unknown."""
    unsent = judge_failure(kind, sent=False)
    assert (unsent.verdict, unsent.charge) == (Verdict.NOT_SENT, Charge.NO)
    assert unsent.again is (kind.value not in PERMANENT)
    sent = judge_failure(kind, sent=True, detail="errno 104\x1b sk-abcdef123456")
    assert (sent.verdict, sent.charge, sent.again) == (UNKNOWN, Charge.MAYBE, True)
    assert sent.message.endswith(": errno 104\\x1b ***.")


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.DONE])
def test_every_verdict_but_done_has_an_error(verdict: Verdict) -> None:
    """The error's class is the verdict's, and it carries what the judgement knows."""
    judgement = Judgement(verdict, CHARGES[verdict], False, "No.", 400, "c", "r")
    raised = error_for(judgement, attempts=2, idempotency_key="k", retry_after=1.5)
    assert type(raised) is ERRORS[verdict]
    assert isinstance(raised, ImagenError)
    known = (raised.message, raised.verdict, raised.charge, raised.status, raised.code)
    assert known == ("No.", verdict, CHARGES[verdict], 400, "c")
    assert (raised.request_id, raised.attempts) == ("r", 2)
    assert (raised.idempotency_key, raised.retry_after) == ("k", 1.5)
    assert str(pickle.loads(pickle.dumps(raised))) == str(raised)


def test_the_worst_charge_of_the_call_wins() -> None:
    """A charge given to the error replaces the one of its last attempt."""
    quota = judge_status(402, NONE, b"")
    assert error_for(quota).charge is Charge.NO
    assert error_for(quota, charge=Charge.MAYBE).charge is Charge.MAYBE
    assert isinstance(error_for(quota), QuotaError)
    assert isinstance(error_for(judge_status(504, NONE, b"")), OutcomeUnknownError)


HEADERS = st.dictionaries(
    st.sampled_from(["location", "retry-after", "x-should-retry", "x-request-id", "cf-ray"]),
    st.text(max_size=30) | st.just("https://a.example:8443/b"),
)
BODY = st.binary(max_size=200) | st.text(st.characters(), max_size=100).map(
    lambda text: json.dumps({"error": {"message": text, "code": text}}).encode()
)


@given(st.integers(100, 999), HEADERS, BODY, st.booleans(), st.booleans())
def test_any_answer_is_judged(
    status: int, headers: dict[str, str], body: bytes, used: bool, charged: bool
) -> None:
    """No answer makes the judge raise; charge follows verdict, and the message is one line."""
    judgement = judge_status(
        status, CIMultiDict(headers), body, key_used_before=used, server_errors_charged=charged
    )
    assert judgement.charge is CHARGES[judgement.verdict]
    assert judgement.message.isprintable()
    assert judgement.again <= (judgement.verdict in {REFUSED, FAILED, UNKNOWN})
    assert judge_spoiled("", body, CIMultiDict(headers), 200).verdict in {SPOILED, REJECTED}


@given(st.sampled_from([408, 502, 504, 520, 524]), BODY, HEADERS)
def test_a_cut_off_front_is_never_believed(
    status: int, body: bytes, headers: dict[str, str]
) -> None:
    """Whatever body stands under these statuses, the image may have been made."""
    assert judge_status(status, CIMultiDict(headers), body).verdict is UNKNOWN


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8) | st.booleans(),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(["error", "code", "message", "data", "url", "status", "task_id"]),
                inner,
            )
            | st.lists(inner, max_size=2)
        ),
    ),
    st.integers(200, 299),
)
def test_any_document_is_judged(document: object, status: int) -> None:
    """No JSON makes the judge raise, and DONE is never its verdict."""
    judgement = judge_error_document(document, NONE, status)
    assert judgement is None or judgement.verdict is not Verdict.DONE
