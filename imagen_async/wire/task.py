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

from imagen_async.wire.error_body import holds_image, is_error
from imagen_async.wire.image_paths import BYTES_NAMES, images_in, links_of
from imagen_async.wire.short_repr import link_repr

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
_LISTS = ("data", "images", "output", "results", "predictions", "choices", "artifacts")
_LINKS = ("image_urls", "urls", *_LISTS)
_PICTURE = re.compile(r"^https?:[^?#]+\.(?:png|jpe?g|webp|gif|avif)(?:[?#]|$)", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?:|/)\S", re.IGNORECASE)
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


def finished_answer(document: object) -> dict[str, Any] | None:
    """Return what a poll holds as the document of an answer, None if there is no image in it.

    Args:
        document: The parsed JSON, its images decoded.
    """
    nodes = list(_nodes(document))
    for node in nodes:
        if items := list(_items(node)):
            return {"created": node.get("created"), "data": items}
    waits = any(_state(node) in PENDING | FAILED for node in nodes)
    images = [] if waits else [image for image in images_in(document) if not image.problem]
    return {"created": None, "data": images} if images else None


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


def _items(node: dict[str, Any]) -> Iterator[Any]:
    """Yield the items of an answer's lists, and what stands beside its state: its only image."""
    for name in _LINKS:
        value = node.get(name)
        for item in value if isinstance(value, list) else ():
            if isinstance(item, str) and (_ADDRESS.match(item) or (item and name not in _LISTS)):
                yield {"url": item}
            elif links_of(item) or any(images_in(item)):
                yield item
    if _state(node) not in PENDING | FAILED:
        url = node.get("url")
        shown = isinstance(url, str) and _PICTURE.search(url)
        alone = {name: node[name] for name in ("image", *BYTES_NAMES) if name in node}
        alone |= {"url": url} if shown else {}
        if links_of(alone) or any(images_in(alone)):
            yield alone


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
