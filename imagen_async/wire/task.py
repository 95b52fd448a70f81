"""Tasks: an order that a gateway takes now and answers later, under an id that can be polled.

Shapes, receipt and end: lemondata ``{task_id, status, poll_url}``, and the same with ``data``;
sub2api a 202 with ``task_id`` and ``poll_url``, and ``result``; APIMart and apib ``{data:
[{task_id, status}]}``, and ``data.result.images[].url``, a list; ToAPIs ``{object:
"generation.task", id, status}``, and ``result.data``; others end in ``output.image_urls``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import attrs

from imagen_async.wire.base64_stream import Embedded, ImageString
from imagen_async.wire.error_body import holds_image, is_error
from imagen_async.wire.short_repr import link_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from imagen_async.wire.base64_stream import Sink

PATHS: Final = ("tasks/{}", "images/tasks/{}", "images/generations/{}")
"""Where gateways that tell no poll URL keep their tasks, under the base URL."""

PENDING: Final = frozenset(
    {
        *("accepted", "created", "in_progress", "in_queue", "not_start", "pending", "processing"),
        *("queued", "queueing", "running", "scheduled", "starting", "submitted", "waiting"),
    }
)
FAILED: Final = frozenset(
    {"cancelled", "canceled", "error", "expired", "failed", "failure", "rejected"}
)

_IDS = ("task_id", "taskId")
_URLS = ("poll_url", "polling_url", "status_url")
_WRAPPERS = ("result", "data", "output", "response", "task_result", "task")
_LINKS = ("image_urls", "urls")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,200}", re.ASCII)
_DEEPEST = 4


@attrs.frozen
class Task:
    """The receipt of an order whose images are still to be collected.

    Args:
        id: The gateway's name of it.
        url: Where it said to ask, absolute or a path; None if it did not.
    """

    id: str
    url: str | None = attrs.field(default=None, repr=link_repr)

    def places(self, base_url: str) -> tuple[str, ...]:
        """Return the URLs to ask, the likeliest first.

        Args:
            base_url: The API's, without a slash at its end.
        """
        name = quote(self.id, safe="")
        known = () if self.url is None else (self.url,)
        return (*known, *(f"{base_url}/{path.format(name)}" for path in PATHS))


def find_task(document: object, headers: Mapping[str, str], status: int) -> Task | None:
    """Return the task that a 2xx answer is the receipt of.

    Args:
        document: The parsed JSON.
        headers: The answer's headers, a case-insensitive mapping.
        status: Its HTTP status.

    Returns:
        None if it holds an image or an error, or names no task.
    """
    if holds_image(document) or is_error(document):
        return None
    nodes = list(_nodes(document))
    found = next((_text(node.get(key)) for node in nodes for key in _IDS if node.get(key)), None)
    if found is None:
        receipts = (node for node in nodes if status == 202 or _is_receipt(node))
        found = next((_text(node.get("id")) for node in receipts if node.get("id")), None)
    if found is None or not _ID.fullmatch(found):
        return None
    urls = (node.get(key) for node in nodes for key in _URLS)
    url = next((url for url in urls if isinstance(url, str) and url), None)
    return Task(found, url or headers.get("Location") or None)


def failure_in(document: object) -> dict[str, Any] | None:
    """Return the part of a poll that says that the task came to nothing, None if none does."""
    nodes = list(_nodes(document))
    told = next((node for node in nodes if is_error(node)), None)
    return told or next((node for node in nodes if _state(node) in FAILED), None)


def finished_answer(
    document: object, open_sink: Callable[[], Sink], max_image_bytes: int
) -> dict[str, Any] | None:
    """Return what a poll holds as the document of an answer, None if there is no image in it.

    Args:
        document: The parsed JSON; the images at its top have been decoded already.
        open_sink: Makes the sink of one image.
        max_image_bytes: The most bytes of one decoded image.
    """
    for node in _nodes(document):
        items = list(_items(node))
        if not items:
            continue
        for item in items:
            text = item.get("b64_json")
            if isinstance(text, str):
                string = ImageString(open_sink, max_image_bytes)
                string.take(text)
                item["b64_json"] = string.finish()
        return {"created": node.get("created"), "data": items}
    return None


def _nodes(document: object, depth: int = _DEEPEST) -> Iterator[dict[str, Any]]:
    """Yield the objects that may speak of the task: the document, and what it wraps."""
    if isinstance(document, list):  # never a list of images: that one has no task's fields
        document = document[0] if document else None
    if not isinstance(document, dict):
        return
    yield document
    if depth > 1:
        for name in _WRAPPERS:
            yield from _nodes(document.get(name), depth - 1)


def _items(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("data", "images"):
        value = node.get(name)
        for item in value if isinstance(value, list) else ():
            if isinstance(item, str):
                yield {"url": item}
            elif isinstance(item, dict):
                yield from _single(item)
    for name in _LINKS:
        value = node.get(name)
        for link in value if isinstance(value, list) else ():
            if isinstance(link, str) and link:
                yield {"url": link}


def _single(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an item for each image: a ``url`` may be a list."""
    url = item.get("url")
    if isinstance(url, list):
        yield from ({**item, "url": link} for link in url if isinstance(link, str) and link)
    elif isinstance(item.get("b64_json"), str | Embedded) or (isinstance(url, str) and url):
        yield item


def _is_receipt(node: dict[str, Any]) -> bool:
    kind = node.get("object")
    return _state(node) in PENDING or (isinstance(kind, str) and kind.endswith("task"))


def _state(node: dict[str, Any]) -> str:
    state = node.get("status", node.get("task_status", node.get("state")))
    return state.lower() if isinstance(state, str) else ""


def _text(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None
