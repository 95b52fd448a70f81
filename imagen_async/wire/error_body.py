"""What a gateway says of a failure, read from the many shapes it says it in."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.wire.cost import tells_a_cost
from imagen_async.wire.mask import NO_MASK, Mask
from imagen_async.wire.text import printable, shown_url

if TYPE_CHECKING:
    from collections.abc import Mapping

BODY_LIMIT = 64 * 1024
"""Bytes of an error's body that are looked at."""


@attrs.frozen
class ErrorBody:
    """A gateway's words on a failure; every text is printable and free of keys.

    Args:
        code: The gateway's own code, as text, whatever JSON type it had.
        type: The kind of error; Google's ``status`` counts as one.
        message: What it says to people.
        html: Whether the body is a web page, with its title or heading as the message.
        page: Whether it is no JSON of an API: a web page, plain text, XML or nothing.
        footer: What a web page of nginx's kind names as its server.
        reasons: Google's ``reason`` and ``quotaId`` of the error's details.
    """

    code: str | None = None
    type: str | None = None
    message: str | None = None
    html: bool = False
    page: bool = False
    footer: str | None = None
    reasons: tuple[str, ...] = ()


def read_error_body(body: bytes, mask: Mask = NO_MASK) -> ErrorBody:
    """Return what an error's body says; never raises.

    Args:
        body: The body as it came; only its first 64 KiB are read.
        mask: Put over each text before any is cut.

    Returns:
        The envelope of its JSON, else the title of its HTML, else its first 200 characters.
    """
    text = body[:BODY_LIMIT].decode("utf-8-sig", "replace").strip()
    if not _HTML.match(text):
        document = _first_json(text)
        wrapped = document.get("html-message") if isinstance(document, dict) else None
        if not isinstance(wrapped, str):
            found = read_error(mask.document(document))
            return found or ErrorBody(message=clean(mask.text(text), 200), page=True)
        text = wrapped  # Portkey, of an upstream's answer that is no JSON
        if not _HTML.match(text):
            return ErrorBody(message=clean(mask.text(text), 200), page=True)
    title = _TITLE.search(text) or _HEADING.search(text)
    footer = _FOOTER.search(text)
    return ErrorBody(
        message=clean(mask.text(title[1])) if title else None,
        html=True,
        page=True,
        footer=clean(mask.text(footer[1]), 50) if footer else None,
    )


def read_error(document: object) -> ErrorBody | None:
    """Return what a parsed JSON document says of a failure; never raises.

    Args:
        document: What ``json.loads`` gave, or any part of it.

    Returns:
        The first shape of the known ones that is there; None if the document says nothing.
    """
    if isinstance(document, list):  # Vertex wraps its errors in an array of one
        document = document[0] if document else None
    if isinstance(document, str):
        return _unless_empty(ErrorBody(message=clean(document)))
    if not isinstance(document, dict):
        return None
    for path in _PATHS:
        found = _read_node(_follow(document, path), document)
        if found is not None:
            return found
    return _unless_empty(ErrorBody(_code(document), _type(document)))


def is_error(document: object) -> bool:
    """Return whether the JSON of a 2xx answer that holds no image is an error."""
    if not isinstance(document, dict):
        return False
    marks = (document.get("object"), document.get("type"), document.get("status"))
    return (
        any(_tells(document.get(key)) for key in _TROUBLE_KEYS)
        or any(isinstance(mark, str) and mark.lower() in _TROUBLE for mark in marks)
        or document.get("success") is False
        or (_tells(document.get("code")) and not document.get("data"))
    )


def is_task(document: object) -> bool:
    """Return whether JSON is the receipt of a task whose image comes later, elsewhere."""
    inner = document.get("data") if isinstance(document, dict) else None
    places = [place for place in (document, inner) if isinstance(place, dict)]
    states = (place.get("status") for place in places)
    return any(place.get(key) for place in places for key in ("task_id", "taskId")) or any(
        isinstance(state, str) and state.lower() in _PENDING for state in states
    )


def holds_image(document: object) -> bool:
    """Return whether JSON holds an image: anything truthy where an item has one."""
    if not isinstance(document, dict):
        return False
    lists = (document.get("data"), document.get("images"))
    items = [item for part in lists for item in (part if isinstance(part, list) else [part])]
    keys = ("url", "b64_json", "image_base64")
    return any(isinstance(item, dict) and any(map(item.get, keys)) for item in items)


def tells_of_work(text: str, headers: Mapping[str, str]) -> bool:
    """Return whether an error shows that work was done: an image, a task, or a cost beside it.

    Args:
        text: Its body; it may be cut.
        headers: A case-insensitive mapping.
    """
    document = _first_json(text)
    return (
        holds_image(document)
        or is_task(document)
        or tells_a_cost(document, headers)
        or _IMAGE.search(text) is not None
    )


def request_id(headers: Mapping[str, str], message: str | None) -> str | None:
    """Return the gateway's id of an answer, for its support.

    Args:
        headers: The answer's headers, a case-insensitive mapping.
        message: The error's message; one-api and new-api write the id into it too.
    """
    for name in _ID_HEADERS:
        found = headers.get(name)
        if found:
            break
    else:
        in_message = _ID_IN_MESSAGE.search(message) if message else None
        if in_message is None:
            return None
        found = in_message[1]
    return (clean(found, _ID_LIMIT) or "")[:_ID_LIMIT] or None


def asked_wait(message: str) -> float | None:
    """Return the seconds that an error's words ask to wait, or None.

    OpenAI writes "Please try again in 6m0s", "in 1.2s" or "in 864ms", Google "Please retry in
    41.5s", others "retry after 30 seconds".
    """
    found = _ASKED.search(message)
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def clean(text: str, limit: int = 2048) -> str | None:
    """Return foreign text without keys, signed queries and terminal escapes; None if empty.

    Args:
        text: A server's or a library's words.
        limit: The most characters of it to keep.
    """
    text = _LINK.sub(lambda link: shown_url(link[0]), text[: 2 * limit])
    return printable(_KEY.sub("***", text).strip(), limit) or None


# The order is that of precedence: the first path that says something wins.
_PATHS = tuple(
    tuple(path.split("."))
    for path in (
        *("error", "errors", "detail", "message", "msg", "err", "error_msg"),
        *("header.message", "response.error.message", "description"),
    )
)
_CODE_KEYS = ("code", "error_code", "errcode", "name")  # Stability's name is its code
_TYPE_KEYS = ("type", "status")
_WORD_KEYS = ("message", "msg", "error", "detail", "description")
_ID_HEADERS = ("x-oneapi-request-id", "x-request-id", "x-litellm-call-id", "cf-ray")
_ABSENT = frozenset({"", "none", "null"})  # litellm writes "None"
_TROUBLE_KEYS = ("error", "errors", "err", "error_msg", "error_message", "error_code")
_TROUBLE = frozenset({"error", "failed", "failure"})
_FINE = frozenset({"0", "200", "ok", "success"})
_PENDING = frozenset({"queued", "pending", "submitted", "processing", "starting", "in_progress"})
_IMAGE = re.compile(r'"(?:b64_json|image_base64)"\s{0,20}:\s{0,20}"[^"]{64}')
_LARGEST_CODE = 10**9
_ID_LIMIT = 200

# Bounded repeats: a hostile body of 64 KiB must not cost more than a pass over it.
_HTML = re.compile(r"(?:<[!?][^>]*>\s*)*<html\b|<!doctype html|<head\b", re.IGNORECASE)
_HEADING = re.compile(r"<h1[^>]{0,200}>([^<]{0,500})</h1", re.IGNORECASE)  # haproxy has no title
_FOOTER = re.compile(r"<hr[^>]{0,20}>\s{0,20}<center>([^<]{0,50})</center", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{0,500})</title", re.IGNORECASE)
_ID_IN_MESSAGE = re.compile(r"\(request[ _]id: ?([^()\s]+)\)", re.IGNORECASE)
_ASKED = re.compile(
    r"\b(?:try again|retry|wait)(?: again)?(?: in| after| for)?:? "
    r"(?:([0-9]{1,4}) ?h(?:ours?)? ?)?"
    r"(?:([0-9]{1,5}) ?m(?:in(?:ute)?s?)?(?![a-z]) ?)?"
    r"(?:([0-9]{1,7}(?:\.[0-9]{1,9})?) ?s(?:ec(?:ond)?s?)?(?![a-z]))?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{1,9})?) ?ms)?",
    re.IGNORECASE,
)
_LINK = re.compile(r"https?://[^\s\"'<>\\]+", re.IGNORECASE)
_KEY = re.compile(
    r"\b(?:sk|pk|rk|hf|gsk|xai|r8)[-_][\w.*-]{6,}"
    r"|\bAIza[\w-]{10,}"
    r"|\beyJ[\w-]{10,}(?:\.[\w-]*)*"
    r"|(?<=\bbearer )[^\s\"',;]+"
    r"|(?<=api key provided: )[^\s\"',;]+",
    re.IGNORECASE | re.ASCII,  # ASCII: a key may follow a Chinese word without a space
)
_DECODER = json.JSONDecoder()


def _first_json(text: str) -> object:
    try:  # new-api can write two documents into one body: the first one counts
        return _DECODER.raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def _follow(node: object, path: tuple[str, ...]) -> object:
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _read_node(node: object, document: dict[str, Any]) -> ErrorBody | None:
    """Read one place where an error may stand; a code beside it counts when it has none."""
    first = next(iter(_objects(node)), {}) if isinstance(node, list) else node
    first = first if isinstance(first, dict) else {}
    found = _unless_empty(
        ErrorBody(_code(first), _type(first), _said(node), reasons=_reasons(first))
    )
    if found is None:
        return None
    return attrs.evolve(
        found, code=found.code or _code(document), type=found.type or _type(document)
    )


def _said(node: object, depth: int = 3) -> str | None:
    """Return the words of a node: a text, those of a list, or an object's, some levels down."""
    if isinstance(node, str):
        return clean(node)
    if depth == 0 or not isinstance(node, dict | list):
        return None
    if isinstance(node, list):
        said = (_said(item, depth - 1) for item in node[:10])
        return clean("; ".join(filter(None, said)))
    words = next(filter(None, (_said(node.get(key), depth - 1) for key in _WORD_KEYS)), None)
    where = node.get("loc")  # FastAPI's list of wrong fields
    if words and isinstance(where, list):
        words = clean(".".join(filter(None, map(_label, where[-3:]))) + ": " + words)
    return words


def _unless_empty(envelope: ErrorBody) -> ErrorBody | None:
    return envelope if envelope.code or envelope.type or envelope.message else None


def _code(node: dict[str, Any]) -> str | None:
    return next(filter(None, (_label(node.get(key)) for key in _CODE_KEYS)), None)


def _type(node: dict[str, Any]) -> str | None:
    texts = (value for key in _TYPE_KEYS if isinstance(value := node.get(key), str))
    return next(filter(None, map(_label, texts)), None)


def _label(value: object) -> str | None:
    """Return a code as text: it may come as an int, a float, a string, "", "None" or null."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST_CODE:
        return str(value)
    if not isinstance(value, str) or value.strip().lower() in _ABSENT:
        return None
    return clean(value, 100)


def _reasons(node: dict[str, Any]) -> tuple[str, ...]:
    """Collect Google's reasons; its own message is the same for a minute's and a day's quota."""
    entries = [*_objects(node.get("details")), *_objects(node.get("errors"))]
    entries += [hit for entry in entries[:20] for hit in _objects(entry.get("violations"))[:20]]
    named = (_label(entry.get(key)) for entry in entries for key in ("reason", "quotaId"))
    return tuple(name for name in named if name)


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _tells(value: object) -> bool:
    """Return whether a value at an error's key is a sign of one."""
    if value is True or not isinstance(value, str | int | float):
        return bool(value)
    label = _label(value)
    return label is not None and label.lower() not in _FINE
