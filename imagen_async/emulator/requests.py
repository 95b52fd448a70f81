"""The request as the gateway reads it: lenient with what it does not know, strict with the rest."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.wire.request import AspectRatio, ResponseFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_IMAGES = 10
MAX_PARTIALS = 3
FORMATS: Mapping[str, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
"""File suffixes of the image formats."""
MAX_PIXELS = 4096
DEFAULT_MODEL = "imagen4"
MAX_DEPTH = 64
"""Levels of a request's JSON: it is written out again, and Python follows no depth without end."""


@attrs.frozen
class Order:
    """What is to be made.

    Args:
        prompt: What the image shows.
        model: The model's name.
        response_format: As sent; None if it was not.
        size: Width and height in pixels.
        n: How many images.
        seed: The request's own seed.
        stream: Whether the answer is asked for as events.
        partial_images: Of a stream: how many images are sent before they are finished.
        quality: One of OpenAI's; None for any other.
        background: The same.
        output_format: The same.
    """

    prompt: str
    model: str = DEFAULT_MODEL
    response_format: str | None = None
    size: tuple[int, int] = AspectRatio.SQUARE.size
    n: int = 1
    seed: int = 0
    stream: bool = False
    partial_images: int = 0
    quality: str | None = None
    background: str | None = None
    output_format: str | None = None


class OrderError(ValueError):
    """The request cannot be an order.

    Args:
        trouble: A row of the dialects' table, or ``invalid``.
        about: The words of ``invalid``, which begin with the field's name.
    """

    def __init__(self, trouble: str, about: str = "") -> None:
        super().__init__(trouble, about)
        self.trouble = trouble
        self.about = about


def fields_of(raw: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a request's body; None if it is none, or too deep to be shown."""
    try:
        body = json.loads(raw, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) and _is_shallow(body) else None


def bearer_key(headers: Mapping[str, str]) -> str:
    """Return the API key of a request; empty if there is none."""
    return headers.get("Authorization", "").removeprefix("Bearer").strip()


def _is_shallow(body: dict[str, Any]) -> bool:
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        inner = (node.values() if isinstance(node, dict) else node for node in level)
        level = [each for values in inner for each in values if isinstance(each, dict | list)]
    return not level


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}.")


def read_order(body: Mapping[str, Any] | None) -> Order:
    """Return the order of a body.

    Args:
        body: The request's fields; None if they were no JSON object.

    Raises:
        OrderError: If a field is missing or wrong.
    """
    if body is None:
        raise OrderError("bad_json")
    prompt = _text(body, "prompt")
    if prompt is None or not prompt.strip():
        raise OrderError("prompt_missing")
    return Order(
        prompt,
        _text(body, "model") or DEFAULT_MODEL,
        _choice(body, "response_format", ResponseFormat),
        _size(body),
        _whole(body, "n", 1, MAX_IMAGES, 1),
        _whole(body, "seed", -(2**63), 2**63, 0),
        stream=body.get("stream") is True,
        partial_images=_known(body, "partial_images", (1, 2, MAX_PARTIALS)) or 0,
        quality=_known(body, "quality", ("low", "medium", "high")),
        background=_known(body, "background", ("opaque", "transparent")),
        output_format=_known(body, "output_format", tuple(FORMATS)),
    )


def _known(body: Mapping[str, Any], name: str, values: tuple[Any, ...]) -> Any:
    """Return a field of OpenAI's, which the other gateways take no notice of."""
    value = body.get(name)
    return value if type(value) in (str, int) and value in values else None


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise OrderError("invalid", f"{name} must be a string")
    return value


def _choice(
    body: Mapping[str, Any], name: str, kind: type[AspectRatio | ResponseFormat]
) -> str | None:
    value = _text(body, name)
    allowed = [member.value for member in kind]
    if value in (None, ""):
        return None
    if value not in allowed:
        raise OrderError("invalid", f"{name} must be one of {', '.join(allowed)}")
    return value


def _whole(body: Mapping[str, Any], name: str, low: int, high: int, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise OrderError("invalid", f"{name} must be an integer")
    if not low <= value <= high:
        raise OrderError("invalid", f"{name} must be between {low} and {high}")
    return value


def _size(body: Mapping[str, Any]) -> tuple[int, int]:
    ratio = _choice(body, "aspect_ratio", AspectRatio)
    if ratio is not None:
        return AspectRatio(ratio).size
    size = _text(body, "size")
    if size in (None, "", "auto"):
        return AspectRatio.SQUARE.size
    if size in set(AspectRatio):
        return AspectRatio(size).size
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", size)
    if found is None:
        raise OrderError("invalid", "size must be WIDTHxHEIGHT, such as 1024x1024")
    width, height = int(found[1]), int(found[2])
    if not (1 <= width <= MAX_PIXELS and 1 <= height <= MAX_PIXELS):
        raise OrderError("invalid", f"size must be between 1x1 and {MAX_PIXELS}x{MAX_PIXELS}")
    return width, height
