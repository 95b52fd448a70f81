"""How a gateway words its answers: success bodies, costs, error envelopes and header names.

Sources: the gateway's page for ``page``; songquanpeng/one-api and Calcium-Ion/new-api for the
error words and the empty-string fields; OpenAI's API reference for ``openai``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imagen_async.emulator.requests import Order

DIALECTS: Mapping[str, str] = {
    "page": "the gateway's page: created and data, links by default",
    "openai": "OpenAI's image API: usage, size and quality beside the data",
    "newapi": "new-api: empty-string fields, always b64_json for imagen models",
}
"""Dialects by name."""


@attrs.frozen
class ErrorCase:
    """One reason to refuse.

    Args:
        status: HTTP status.
        code: The gateway's code.
        message: Its words.
        chinese: The same in Chinese, where the gateway has them.
        type: Its error type; empty for the dialect's own.
        param: The request's field at fault.
    """

    status: int
    code: str
    message: str
    chinese: str = ""
    type: str = ""
    param: str = ""


_INVALID = "invalid_request_error"

_TROUBLES: Mapping[str, ErrorCase] = {
    "bad_json": ErrorCase(400, "invalid_json", "The body is not a JSON object", type=_INVALID),
    "prompt_missing": ErrorCase(400, "prompt_missing", "prompt is required", param="prompt"),
    "moderation": ErrorCase(
        400,
        "moderation_blocked",
        "Your request was rejected as a result of our safety system",
        type="image_generation_user_error",
        param="prompt",
    ),
    "bad_key": ErrorCase(401, "invalid_api_key", "Invalid token", "无效的令牌"),
    "payment": ErrorCase(402, "payment_required", "Payment required; add credits to go on"),
    "quota": ErrorCase(
        403, "insufficient_user_quota", "user quota is not enough", "用户额度不足, 剩余额度: $0.00"
    ),
    "unknown_path": ErrorCase(404, "", "Invalid URL ({about})", type=_INVALID),
    "no_model": ErrorCase(
        404, "model_not_found", "The model '{about}' does not exist", type=_INVALID, param="model"
    ),
    "conflict": ErrorCase(409, "idempotency_key_in_use", "A request with this key is in progress"),
    "key_reused": ErrorCase(
        422, "idempotency_key_reused", "This key was used for another request", type=_INVALID
    ),
    "task_gone": ErrorCase(404, "task_not_found", "No such task, or it has expired"),
    "rate": ErrorCase(
        429,
        "rate_limit_exceeded",
        "You have reached the request limit: at most {about} requests in 1 minute",
        "您已达到请求数限制：1分钟内最多请求{about}次",  # noqa: RUF001 - as new-api writes it
    ),
    "internal": ErrorCase(500, "internal_error", "Internal server error", "服务器内部错误"),
    "sensitive": ErrorCase(
        500, "sensitive_words_detected", "sensitive words detected", "检测到敏感词"
    ),
    "queue": ErrorCase(503, "server_busy", "image queue is full, please retry later"),
    "overloaded": ErrorCase(
        503,
        "overloaded",
        "The upstream of the current group is saturated, please try again later",
        "当前分组上游负载已饱和，请稍后再试",  # noqa: RUF001 - as new-api writes it
    ),
    "no_channel": ErrorCase(
        503,
        "model_not_found",
        "No available channel for model {about} under group default",
        "当前分组 default 下对于模型 {about} 无可用渠道",
    ),
    "unknown": ErrorCase(500, "unknown_error", "The server answered {about}"),
}

_OPENAI: Mapping[str, ErrorCase] = {
    "prompt_missing": ErrorCase(
        400,
        "missing_required_parameter",
        "Missing required parameter: 'prompt'.",
        type=_INVALID,
        param="prompt",
    ),
    "bad_key": ErrorCase(401, "invalid_api_key", "Incorrect API key provided.", type=_INVALID),
    "quota": ErrorCase(
        429,
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
        type="insufficient_quota",
    ),
    "rate": ErrorCase(
        429,
        "rate_limit_exceeded",
        "Rate limit reached for images per minute: Limit {about}. Please try again later.",
        type="requests",
    ),
    "no_channel": ErrorCase(
        404, "model_not_found", "The model '{about}' does not exist.", type=_INVALID, param="model"
    ),
}

_OWN_TYPE = {"page": "one_api_error", "newapi": "new_api_error", "openai": "server_error"}


@attrs.frozen
class Dialect:
    """One gateway's way to speak.

    Args:
        name: One of ``DIALECTS``.
        language: ``en`` or ``zh``; only some errors have Chinese words.
    """

    name: str
    language: str = "en"

    def trouble(self, name: str, about: object = "", *, status: int | None = None) -> ErrorCase:
        """Return a trouble in this dialect's words.

        Args:
            name: A row of the table; ``invalid`` is a field's 400, worded by ``about``.
            about: What the words are about: a path, a model, a limit.
            status: Another status than the table's.
        """
        if name == "invalid":
            param = str(about).partition(" ")[0]
            return ErrorCase(400, "invalid_value", str(about), type=_INVALID, param=param)
        trouble = _TROUBLES[name]
        if self.name == "openai":
            trouble = _OPENAI.get(name, trouble)
        words = trouble.chinese if self.language == "zh" and trouble.chinese else trouble.message
        return attrs.evolve(
            trouble,
            message=words.replace("{about}", str(about)),
            type=trouble.type or _OWN_TYPE[self.name],
            status=status or trouble.status,
        )

    def error_body(self, trouble: ErrorCase, request_id: str) -> bytes:
        """Return the JSON envelope of a trouble."""
        error: dict[str, Any] = {"message": trouble.message, "type": trouble.type}
        if self.name == "openai":
            error |= {"param": trouble.param or None, "code": trouble.code or None}
        else:
            error["message"] += f" (request id: {request_id})"
            error |= {"param": trouble.param, "code": trouble.code}
        return json.dumps({"error": error}, ensure_ascii=False).encode(errors="replace")

    def headers(self, request_id: str) -> dict[str, str]:
        """Return the headers that every answer of the API carries."""
        if self.name == "openai":
            return {
                "x-request-id": f"req_{request_id}",
                "openai-processing-ms": "1",
                "openai-version": "2020-10-01",
            }
        return {"X-Oneapi-Request-Id": request_id}

    def sends_links(self, model: str, asked: str | None) -> bool:
        """Return whether images leave as links rather than as base64.

        Args:
            model: The request's model.
            asked: Its ``response_format``.
        """
        if self.name == "newapi" and "imagen" in model.lower():
            return False  # its Imagen adaptor ignores response_format
        if self.name == "openai" and model.startswith("gpt-image"):
            return False
        return asked != "b64_json"

    def item(self, *, url: str | None, b64_json: str | None, prompt: str) -> dict[str, Any]:
        """Return one row of ``data``."""
        if self.name == "newapi":
            return {"url": url or "", "b64_json": b64_json or "", "revised_prompt": ""}
        item: dict[str, Any] = {"url": url} if b64_json is None else {"b64_json": b64_json}
        if self.name == "openai":
            item["revised_prompt"] = prompt
        return item

    def streams(self, order: Order) -> bool:
        """Return whether an order is answered with a stream of events."""
        return self.name == "openai" and order.stream

    def success(
        self, created: int, data: Sequence[Mapping[str, Any]], order: Order, image_format: str
    ) -> dict[str, Any]:
        """Return the body of a success.

        Args:
            created: Unix seconds.
            data: The items.
            order: What was asked for.
            image_format: Of the images.
        """
        body: dict[str, Any] = {"created": created, "data": list(data)}
        if self.name == "openai":
            tokens = 272 * len(data)
            body |= {
                "background": order.background or "opaque",
                "output_format": image_format,
                "quality": order.quality or "medium",
                "size": "x".join(map(str, order.size)),
                "usage": {
                    "input_tokens": 10,
                    "input_tokens_details": {"image_tokens": 0, "text_tokens": 10},
                    "output_tokens": tokens,
                    "total_tokens": tokens + 10,
                },
            }
        return body


def model_list(models: Sequence[str]) -> dict[str, Any]:
    """Return the body of ``GET /v1/models``."""
    return {"object": "list", "data": [model_row(model) for model in models]}


def model_row(model: str) -> dict[str, Any]:
    """Return the body of ``GET /v1/models/{id}``."""
    return {"id": model, "object": "model", "created": 1747785600, "owned_by": "emulator"}


_TICKS = 10_000_000_000
"""xAI's ticks in a dollar."""


def cost_headers(name: str | None, usd: float) -> dict[str, str]:
    """Return the headers that tell a cost.

    Args:
        name: One of ``COSTS``, or None.
        usd: The cost.
    """
    if name == "aimlapi":
        return {"x-aimlapi-usd-spent": f"{usd:.9f}"}
    if name == "litellm":
        return {"x-litellm-response-cost": f"{usd}"}
    return {}


def with_cost(body: dict[str, Any], name: str | None, usd: float) -> dict[str, Any]:
    """Return a success body that tells its cost, if it is told there.

    Args:
        body: The success body.
        name: One of ``COSTS``, or None.
        usd: The cost.
    """
    told: dict[str, Any] = {}
    if name == "xai":
        told = {"cost_in_usd_ticks": round(usd * _TICKS)}
    elif name == "openrouter":
        told = {"cost": usd}
    return body | {"usage": body.get("usage", {}) | told} if told else body
