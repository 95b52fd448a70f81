"""Answers that gateways were seen to give, verbatim, each with its verdict."""

# ruff: noqa: RUF001 - the gateways' own words

from __future__ import annotations

import json
import unicodedata

from imagen_async.errors import Verdict


def is_harmless(text: str) -> bool:
    """Return whether a text can be shown: wide and no-break spaces (Zs) do no harm."""
    return all(sign.isprintable() or unicodedata.category(sign) == "Zs" for sign in text)


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
FAILED, UNKNOWN = Verdict.FAILED, Verdict.UNKNOWN

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
        b'{"error":{"errors":[{"reason":"dailyLimitExceeded"}],"code":403,"message":"no"}}',
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
    "upscale": (424, error("no", code="image_upscale_failed"), UNKNOWN),
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
    "litellm text": (500, b"Internal Server Error", UNKNOWN),
    "litellm, upstream dropped": (
        500,
        error("litellm.APIConnectionError: OpenAIException - Connection error.", "None", "500"),
        UNKNOWN,
    ),
    "litellm, upstream cut": (
        500,
        error("litellm.APIConnectionError: Expecting ':' delimiter: line 1 column 9", "None"),
        UNKNOWN,
    ),
    "google's 504 behind litellm": (
        500,
        error("litellm.InternalServerError: VertexAIException - Deadline expired before operation"),
        UNKNOWN,
    ),
    "portkey": (500, b'{"status":"failure","message":"Something went wrong"}', UNKNOWN),
    "portkey, wrapped": (500, b'{"html-message":"fetch failed: other side closed"}', UNKNOWN),
    "a page in an envelope": (
        503,
        json.dumps({"html-message": page("503 Service Temporarily Unavailable").decode()}).encode(),
        REFUSED,
    ),
    "new-api's limiter": (500, error("rate_limit_check_failed"), FAILED),
    "a refusal that tells of a lost one": (
        500,
        error("rate limit, after: connection reset by peer", code="rate_limit_exceeded"),
        UNKNOWN,
    ),
    "missing prompt at litellm": (
        500,
        error("missing 1 required positional argument: 'prompt'"),
        REJECTED,
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
    "522 that says timed out": (522, page("x | 522: Connection timed out", "cloudflare"), UNKNOWN),
    "521": (521, b"error code: 521", REFUSED),
    "521 behind new-api": (521, error("", "upstream_error", "bad_response_status_code"), UNKNOWN),
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
    "envoy never connected": (503, ENVOY + b"connection failure", REFUSED),
    "envoy never connected, newer": (503, ENVOY + b"remote connection failure, why", REFUSED),
    "envoy had no room": (503, ENVOY + b"overflow", REFUSED),
    "envoy tried twice": (
        503,
        ENVOY.replace(b"reset reason", b"retried and the latest reset reason")
        + b"connection failure",
        UNKNOWN,
    ),
    "envoy's words in an API's mouth": (503, error((ENVOY + b"overflow").decode()), UNKNOWN),
    "no healthy upstream": (503, b"no healthy upstream", UNKNOWN),
    "nginx limit": (503, page("503 Service Temporarily Unavailable"), REFUSED),
    "openresty limit": (503, page("503 Service Temporarily Unavailable", "openresty"), REFUSED),
    "alb": (503, page("503 Service Temporarily Unavailable", ""), UNKNOWN),
    "haproxy": (
        503,
        b"<html><body><h1>503 Service Unavailable</h1>\nNo server is available.\n</body></html>\n",
        UNKNOWN,
    ),
    "varnish": (503, page("503 Backend fetch failed", "Varnish cache server"), UNKNOWN),
    "a queue in plain text": (503, b"image queue is full, please retry later", UNKNOWN),
    "bare 503": (503, b"", UNKNOWN),
    "capacity": (503, google(503, "no", "MODEL_CAPACITY_EXHAUSTED"), REFUSED),
    "not ready": (503, b'{"detail":"Service not ready"}', UNKNOWN),
    "529": (529, error("Overloaded", "overloaded_error"), REFUSED),
    "bare 529": (529, b"", UNKNOWN),
    "openai overloaded": (503, error("no", code="server_is_overloaded"), REFUSED),
    "google overloaded": (
        503,
        google(503, "The model is overloaded. Please try again later.", "UNAVAILABLE"),
        REFUSED,
    ),
    "google in demand": (
        503,
        google(503, "This model is currently experiencing high demand.", "UNAVAILABLE"),
        REFUSED,
    ),
    "google unavailable": (
        503,
        google(503, "The service is currently unavailable.", "UNAVAILABLE"),
        UNKNOWN,
    ),
    "hugging face loads": (503, b'{"error":"Model x/y is currently loading"}', REFUSED),
    "new upstream 505": (505, b"", UNKNOWN),
    # 1xx, 3xx and the rest
    "101": (101, b"", UNKNOWN),
    "301": (301, page("301 Moved Permanently"), REJECTED),
    "999": (999, b"", UNKNOWN),
}
