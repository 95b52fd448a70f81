"""An answer as OpenAI streams it: an event for each partial image, then one for each image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EVENT_STREAM = "text/event-stream; charset=utf-8"

_OF_EVERY_EVENT = ("background", "output_format", "quality", "size")


def event_stream(body: Mapping[str, Any], partials: Sequence[str]) -> bytes:
    """Return a success body as server-sent events.

    Args:
        body: What the answer would be as JSON.
        partials: Partial images as base64, in the order in which they were drawn.
    """
    told = {name: body[name] for name in _OF_EVERY_EVENT if name in body}
    told["created_at"] = body["created"]
    events: list[dict[str, Any]] = [
        {"type": "image_generation.partial_image", "partial_image_index": place, "b64_json": text}
        for place, text in enumerate(partials)
    ]
    for item in body.get("data") or []:
        image = {name: item[name] for name in ("b64_json", "url") if name in item}
        events.append({"type": "image_generation.completed", **image})
    if events and "usage" in body:
        events[-1]["usage"] = body["usage"]
    return b"".join(_encoded({**event, **told}) for event in events)


def _encoded(event: Mapping[str, Any]) -> bytes:
    data = json.dumps(event, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode()
