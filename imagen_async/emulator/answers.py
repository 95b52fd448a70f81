"""Answers as values, and the faults that spoil them."""

from __future__ import annotations

import base64
import enum
import gzip
import json
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.emulator import proxy_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from imagen_async.emulator.faults import Fault

JSON_TYPE = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"


class Framing(enum.Enum):
    """How an answer's bytes go onto the wire."""

    WHOLE = "with its Content-Length"
    STREAMED = "chunked, event by event"
    DRIBBLED = "chunked, blanks first"
    CUT = "fewer bytes than the Content-Length, then closed"
    CUT_CHUNKED = "chunked, closed without the last chunk"
    CUT_SILENT = "neither length nor chunks: closing is the end"
    STALLED = "fewer bytes than the Content-Length, then nothing"
    DROPPED = "closed, no byte sent"
    RESET = "reset, no byte sent"
    SILENT = "no byte sent, left open"

    @property
    def has_head(self) -> bool:
        """Whether a status goes out at all."""
        return self not in (Framing.DROPPED, Framing.RESET, Framing.SILENT)


@attrs.frozen
class Answer:
    """One answer.

    Args:
        status: HTTP status.
        body: The whole body, what a fault holds back included.
        content_type: The label of the body.
        headers: Other headers.
        framing: How it is sent.
        sent: Of a cut or stalled body, the bytes that are sent; of a dribbled one, the blanks.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = attrs.field(factory=dict)
    framing: Framing = Framing.WHOLE
    sent: int = 0


DROPPED = Answer(framing=Framing.DROPPED)


def front_page(status: int, **headers: str) -> Answer:
    """Return nginx's page of a status."""
    headers = {"Server": proxy_pages.NGINX, **headers}
    return Answer(status, proxy_pages.nginx_page(status), "text/html", headers)


def timed_out(front: str) -> Answer:
    """Return what a front answers when the gateway behind it takes too long.

    Args:
        front: ``nginx`` or ``cloudflare``.
    """
    if front == "cloudflare":
        return Answer(524, proxy_pages.CLOUDFLARE_524, headers={"Server": "cloudflare"})
    return front_page(504)


def index_page() -> Answer:
    """Return the web site's page."""
    return Answer(200, proxy_pages.INDEX, "text/html; charset=utf-8")


LOST: Mapping[str, Answer] = {
    "drop": DROPPED,
    "reset": Answer(framing=Framing.RESET),
    "stall": Answer(framing=Framing.SILENT),
    "502": front_page(502),
    "504": timed_out("nginx"),
    "524": timed_out("cloudflare"),
}
"""What is sent in place of a charged answer."""

_CUTS = {
    "cut": Framing.CUT,
    "cut_chunked": Framing.CUT_CHUNKED,
    "cut_silent": Framing.CUT_SILENT,
    "stall_body": Framing.STALLED,
}

AS_BASE64 = {
    "url_datauri",
    "b64_prefix",
    "b64_newlines",
    "b64_unpadded",
    "b64_urlsafe",
    "b64_garbage",
}
"""Faults that need the image's bytes in the answer, whatever was asked."""

AS_LINK = {"url_relative", "url_path"}
"""Faults that need a link in the answer, whatever was asked."""

Body = dict[str, Any]


def _each(change: Callable[[dict[str, Any]], None]) -> Callable[[Body, Fault], Body]:
    def spoil(body: Body, _fault: Fault) -> Body:
        for item in body["data"]:
            change(item)
        return body

    return spoil


def _on_base64(change: Callable[[str], str]) -> Callable[[Body, Fault], Body]:
    return _each(lambda item: item.update(b64_json=change(item["b64_json"])))


def _on_link(change: Callable[[str], str]) -> Callable[[Body, Fault], Body]:
    return _each(lambda item: item.update(url=change(item["url"])))


def _data_uri(item: dict[str, Any]) -> None:
    item["url"] = "data:image/png;base64," + item.pop("b64_json")


def _lines(text: str) -> str:
    return "\n".join(text[at : at + 76] for at in range(0, len(text), 76))


def _first_null(body: Body, _fault: Fault) -> Body:
    body["data"][0] = {"b64_json": None, "revised_prompt": None, "url": None}
    return body


_ON_BODY: Mapping[str, Callable[[Body, Fault], Body]] = {
    "data_empty": lambda body, _: body | {"data": []},
    "data_null": lambda body, _: body | {"data": None},
    "data_missing": lambda body, _: {name: body[name] for name in body if name != "data"},
    "item_null": _first_null,
    "partial": lambda body, fault: body | {"data": body["data"][: fault.number]},
    "url_datauri": _each(_data_uri),
    "url_relative": _on_link(lambda url: "/" + url.split("/", 3)[3]),
    "url_path": _on_link(lambda url: "/var/lib/gateway/image/" + url.rpartition("/")[2]),
    "b64_prefix": _on_base64(lambda text: "data:image/png;base64," + text),
    "b64_newlines": _on_base64(_lines),
    "b64_unpadded": _on_base64(lambda text: text.rstrip("=")),
    "b64_urlsafe": _on_base64(lambda text: text.replace("+", "-").replace("/", "_")),
    "b64_garbage": _on_base64(lambda text: text[:40] + "!*not base64*!" + text[40:]),
}
"""Faults that change the JSON values."""


def _events(answer: Answer) -> Answer:
    lines = [
        b"event: image_generation.completed",
        b'data: {"type":"image_generation.completed",' + answer.body[1:],
        b"",
        b"data: [DONE]",
        b"",
        b"",
    ]
    return attrs.evolve(answer, body=b"\n".join(lines), content_type="text/event-stream")


def _task(answer: Answer) -> Answer:
    task = {"task_id": "task-0001", "status": "queued", "poll_url": "/v1/tasks/task-0001"}
    return attrs.evolve(answer, status=202, body=json.dumps(task).encode())


def _zipped(answer: Answer) -> Answer:
    headers = {**answer.headers, "Content-Encoding": "gzip"}
    return attrs.evolve(answer, body=gzip.compress(answer.body, 1, mtime=0), headers=headers)


_SECOND_DOCUMENT = b'{"error":{"message":"written twice","type":"new_api_error","code":""}}'

_ON_BYTES: Mapping[str, Callable[[Answer], Answer]] = {
    "two_json": lambda answer: attrs.evolve(answer, body=answer.body + _SECOND_DOCUMENT),
    "bom": lambda answer: attrs.evolve(answer, body=b"\xef\xbb\xbf" + answer.body),
    "sse": _events,
    "ct_text_plain": lambda answer: attrs.evolve(answer, content_type="text/plain; charset=utf-8"),
    "gzip": _zipped,
    "task_id_202": _task,
}
"""Faults that change the answer's bytes or labels."""


def spoiled(
    body: Body, headers: Mapping[str, str], fault: Fault | None, partials: list[str] | None = None
) -> Answer:
    """Return the answer that carries a success body, after what a fault does to it.

    Args:
        body: The success body; it may be changed.
        headers: The answer's headers.
        fault: A fault after generation, or None.
        partials: The partial images of an answer that is streamed.
    """
    if fault is not None and fault.name in _ON_BODY:
        body = _ON_BODY[fault.name](body, fault)
    if partials is None:
        answer = Answer(200, _encoded(body), headers=headers)
    else:
        events = event_stream(body, partials)
        answer = Answer(200, events, EVENT_STREAM, headers, Framing.STREAMED)
    if fault is not None and fault.name in _ON_BYTES:
        return _ON_BYTES[fault.name](answer)
    return on_the_way(answer, fault)


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
    return b"".join(_event({**event, **told}) for event in events)


def _event(event: Mapping[str, Any]) -> bytes:
    data = json.dumps(event, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode()


def on_the_way(answer: Answer, fault: Fault | None) -> Answer:
    """Return what comes of an answer after what a fault does to its bytes on the wire."""
    if fault is None:
        return answer
    if fault.name in LOST:
        return LOST[fault.name]
    if fault.name == "ws_keepalive":
        return attrs.evolve(answer, framing=Framing.DRIBBLED, sent=fault.number)
    if fault.name in _CUTS:
        # A cut that lets everything through would be no cut.
        sent = min(fault.number, len(answer.body) - 1)
        return attrs.evolve(answer, framing=_CUTS[fault.name], sent=sent)
    return answer


def _encoded(body: Body) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def json_answer(value: Any, status: int = 200) -> Answer:
    """Return an answer that carries a JSON value."""
    return Answer(status, json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def base64_of(data: bytes) -> str:
    """Return bytes as the text of ``b64_json``."""
    return base64.b64encode(data).decode("ascii")
