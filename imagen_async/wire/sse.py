"""A stream of server-sent events that answers an image request."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from imagen_async.wire.image_paths import LISTS, NAMES, images_in, worth
from imagen_async.wire.json_stream import DocumentDecoder, closed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imagen_async.wire.base64_stream import Embedded

STARTS = (b"data:", b"event:", b":", b"id:", b"retry:")
"""What a stream of events begins with, and no JSON does."""

_DONE = "[DONE]"
_MOST_EVENTS = 4000
_FIELD = re.compile(r"^(event|data):(.*)", re.MULTILINE)
_RESULT = re.compile(r'completed|"(?:data|images)"\s*:')
_INDICES = ("index", "image_index", "output_index")
_OF_AN_ITEM = (*NAMES, "revised_prompt")
_OF_AN_EVENT = frozenset({"type", "created_at", *_OF_AN_ITEM, *LISTS, *_INDICES})


class EventDecoder(DocumentDecoder):
    """Takes a stream of events in pieces cut anywhere, and gives the answer it amounts to.

    A result is an event that is a whole answer, which replaces what came before it, or one with an
    image at its top. Events that tell the same index are the same image, and the last one counts.
    Partial images are dropped, ``[DONE]`` ends the stream, and a broken event costs only itself.
    """

    __slots__ = ()

    def _read(self, text: str, marks: dict[str, Embedded]) -> object:
        stream = _Stream()
        self._play(text, marks, stream)
        self.strays[:] = stream.strays
        if stream.broken and not stream.items and "error" not in stream.rest:
            raise self._error(f"the answer is not JSON: {stream.broken}")
        return stream.answer()

    def _saved(self, text: str, marks: dict[str, Embedded]) -> list[Embedded | str]:
        stream = _Stream()
        self._play(text, marks, stream)
        return [*worth(stream.answer()), *stream.strays]

    def _play(self, text: str, marks: dict[str, Embedded], stream: _Stream) -> None:
        for name, data in _events(text):
            if data == _DONE:
                break
            try:
                event, broken = json.loads(data), ""
            except (ValueError, RecursionError) as error:
                event, broken = closed(data), str(error)
            event = self._put_images(event, marks)
            hidden = [marks.pop(mark) for mark in [*marks] if mark in data]
            if broken:
                stream.broken = stream.broken or broken
                known = _RESULT.search(name + data) is not None and "partial" not in name + data
                stream.drop_or_keep([*worth(event), *hidden], keep=known)
            else:
                stream.take(name, event if isinstance(event, dict) else {"data": event}, hidden)
        stream.drop_or_keep(marks.values(), keep=True)


class _Stream:
    """What the events so far amount to."""

    def __init__(self) -> None:
        self.strays: list[Embedded | str] = []
        self.items: dict[object, Any] = {}
        self.rest: dict[str, Any] = {}
        self.broken = ""

    def answer(self) -> dict[str, Any]:
        return {**self.rest, "data": list(self.items.values())}

    def drop_or_keep(self, found: Iterable[Embedded | str], *, keep: bool) -> None:
        for each in found:
            if keep:
                self.strays.append(each)
            elif not isinstance(each, str) and each.sink is not None:
                each.sink.discard()

    def take(self, name: str, event: dict[str, Any], hidden: list[Embedded]) -> None:
        """Take what one event tells, or drop it."""
        kind = event.get("type")
        kind = f"{name} {kind}" if isinstance(kind, str) else name
        keep = "partial" not in kind and "partial_image_index" not in event
        replaced = self._store(event) if keep else None
        if replaced is None and keep and ("error" in kind or "error" in event):
            self.rest["error"] = event.get("error", event)
        kept = {id(image) for image in images_in(list(self.items.values()))}
        others = (*images_in(replaced), *images_in(event))
        self.drop_or_keep((*hidden, *(each for each in others if id(each) not in kept)), keep=keep)

    def _store(self, event: dict[str, Any]) -> list[Any] | None:
        """Take a result and return the items that it replaces; None if the event is none."""
        answers = [event[name] for name in LISTS if isinstance(event.get(name), dict | list)]
        if answers:
            replaced = list(self.items.values())
            self.items = dict(enumerate(answers[0] if isinstance(answers[0], list) else answers))
        elif any(event.get(name) for name in NAMES):
            key = _identity(event) or f"result {len(self.items)}"
            replaced = [self.items.get(key)]
            self.items[key] = {name: event[name] for name in _OF_AN_ITEM if name in event}
        else:
            return None
        if "created_at" in event:
            self.rest["created"] = event["created_at"]
        for name in event.keys() - _OF_AN_EVENT:
            if not any(images_in(event[name])):
                self.rest[name] = event[name]
        return replaced


def _events(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the data of each event that has any; of very many the last ones."""
    for event in re.split(r"\n{2,}", text.replace("\r\n", "\n").replace("\r", "\n"))[
        -_MOST_EVENTS:
    ]:
        fields = _FIELD.findall(event)
        data = "\n".join(value for name, value in fields if name == "data").strip()
        if data:
            yield next((value.strip() for name, value in fields if name == "event"), ""), data


def _identity(event: dict[str, Any]) -> str | None:
    """Return what tells this image from the others of its stream, if the event says it."""
    for name in _INDICES:
        if isinstance(event.get(name), int):
            return f"index {event[name]}"
    url = event.get("url")
    return url if isinstance(url, str) and url else None
