"""Tasks: an order that a gateway takes now and answers later, under an id that can be polled.

Shapes, receipt and end: lemondata ``{task_id, status, poll_url}``, and the same with ``data``;
sub2api a 202 with ``task_id`` and ``poll_url``, and ``result``; APIMart and apib ``{data:
[{task_id, status}]}``, and ``data.result.images[].url``, a list; ToAPIs ``{object:
"generation.task", id, status}``, and ``result.data``; others end in ``output.image_urls``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import attrs

from imagen_async.wire.base64_stream import Embedded, ImageString
from imagen_async.wire.error_body import holds_image, is_error
from imagen_async.wire.image_paths import LISTS
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
_LISTS = ("data", "images", "output", "results", "predictions", "choices", "artifacts")
_LINK_NAMES = ("url", "image_url", "imageUrl", "image")
_TOP_NAMES = ("b64_json", "image_base64", "image")
_BYTES_NAMES = ("b64_json", "image_base64", "bytesBase64Encoded", "base64")
_BASE64 = re.compile(r"[A-Za-z0-9+/_=\s-]{64,}")
_PICTURE = re.compile(r"^https?:[^?#]+\.(?:png|jpe?g|webp|gif|avif)(?:[?#]|$)", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?:|data:|/)\S", re.IGNORECASE)
_ID = re.compile(r"(?!\.$|.*\.\.)[!-~]{1,200}")
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
    urls = (node.get(key) for node in nodes for key in _URLS)
    url = next((url for url in urls if isinstance(url, str) and url), None)
    url = url or headers.get("Location") or None
    found = next((_text(node.get(key)) for node in nodes for key in _IDS if node.get(key)), None)
    if found is None:
        receipts = (node for node in nodes if status == 202 or _is_receipt(node))
        ids = [_text(node.get("id")) for node in receipts]
        found = next(
            filter(None, ids), urlsplit(url).path.rpartition("/")[2] if ids and url else None
        )
    if found is None or not _ID.fullmatch(found):
        return None
    return Task(found, url)


def failure_in(document: object) -> dict[str, Any] | None:
    """Return the part of a poll that says that the task came to nothing, None if none does."""
    nodes = list(_nodes(document))
    told = next((node for node in nodes if is_error(node)), None)
    return told or next((node for node in nodes if _state(node) in FAILED), None)


def has_failed(document: object) -> bool:
    """Return whether a poll says of the task itself that it failed: an error may be of the poll."""
    return any(_state(node) in FAILED for node in _nodes(document))


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
    for name in _LISTS:
        value = node.get(name)
        for item in value if isinstance(value, list) else ():
            if isinstance(item, str) and (name in LISTS or _ADDRESS.match(item)):
                yield _linked(item)
            elif isinstance(item, dict):
                yield from _single(item)
    for name in _LINKS:
        value = node.get(name)
        for link in value if isinstance(value, list) else ():
            if isinstance(link, str) and link:
                yield {"url": link}
    yield from _top(node)


def _top(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what stands beside the state of an answer: its only image."""
    if _state(node) not in PENDING | FAILED:
        url = node.get("url")
        names = _TOP_NAMES + ("url",) * (isinstance(url, str) and bool(_PICTURE.search(url)))
        yield from _single({name: node[name] for name in names if name in node})


def _single(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an item for each image: a ``url`` may be a list, or an object."""
    url = next(filter(None, map(item.get, _LINK_NAMES)), None)
    url = url.get("url") if isinstance(url, dict) else url
    embedded = next(filter(None, map(item.get, _BYTES_NAMES)), None)
    links = [link for link in (url if isinstance(url, list) else [url]) if isinstance(link, str)]
    if isinstance(embedded, str | Embedded):
        rest = {name: item[name] for name in item if name != "url"}
        yield {**rest, **({"url": links[0]} if links else {}), "b64_json": embedded}
    else:
        yield from ({**item, **_linked(link)} for link in links if link)


def _linked(text: str) -> dict[str, Any]:
    """Return the item of a link, which may be the image itself."""
    inside = text[:5].lower() == "data:" or _BASE64.fullmatch(text)
    return {"b64_json": text, "url": None} if inside else {"url": text}


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
