"""A stream of server-sent events that answers an image request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.wire.base64_stream import Embedded, Sink
from imagen_async.wire.image_paths import LISTS, NAMES
from imagen_async.wire.json_stream import (
    AnswerError,
    AnswerLimits,
    DocumentDecoder,
    images_in,
    worth,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

STARTS = (b"data:", b"event:", b":", b"id:", b"retry:")
"""What a stream of events begins with, and no JSON does."""

_DONE = b"[DONE]"
_RESULT = re.compile(rb'completed|"(?:data|images)"\s*:')
_LINE_LIMIT = 256
_LINE_COST = 128  # what a line takes of the text's limit beside its text: lines take time
_INDICES = ("index", "image_index", "output_index")
_OF_AN_ITEM = (*NAMES, "revised_prompt")
_OF_AN_EVENT = frozenset({"type", "created_at", *_OF_AN_ITEM, *LISTS, *_INDICES})


class EventDecoder:
    """Takes a stream of events in pieces cut anywhere, and gives the answer it amounts to.

    A result is an event that is a whole answer, which replaces what came before it, or one with an
    image at its top. Events that tell the same index are the same image, and the last one counts.
    Partial images are dropped, ``[DONE]`` ends the stream, and a broken event costs only itself.

    Args:
        open_sink: Makes the sink of one image, at its first byte.
        limits: How much is taken, of all events together.
    """

    __slots__ = (
        "_count",
        "_ended",
        "_error",
        "_event",
        "_in_data",
        "_items",
        "_limits",
        "_line",
        "_name",
        "_open_sink",
        "_rest",
        "_text_left",
        "strays",
    )

    def __init__(self, open_sink: Callable[[], Sink], limits: AnswerLimits) -> None:
        self.strays: list[Embedded | str] = []
        self._open_sink = open_sink
        self._limits = limits
        self._text_left = limits.max_text_bytes
        self._count = 0
        self._line = b""
        self._in_data = False
        self._name = ""
        self._event: DocumentDecoder | None = None
        self._error: AnswerError | None = None
        self._ended = False
        self._items: dict[object, Any] = {}
        self._rest: dict[str, Any] = {}

    def feed(self, chunk: bytes, /) -> None:
        """Take the next bytes of the stream.

        Raises:
            AnswerError: The text of all events is larger than the limit.
        """
        start = 0
        while start < len(chunk) and not self._ended:
            end = chunk.find(b"\n", start)
            stop = len(chunk) if end < 0 else end
            self._take(chunk[start:stop])
            if end >= 0:
                self._end_line()
            start = stop + 1

    def finish(self) -> object:
        """Return the answer: the items as ``data``, and what else the results told.

        Raises:
            AnswerError: There is no result, and an event was broken.
        """
        self._end_line()
        self._end_event()
        self._ended = True
        if self._error is not None and not self._items and "error" not in self._rest:
            raise self._error
        return {**self._rest, "data": list(self._items.values())}

    def salvage(self) -> list[Embedded | str]:
        """End the decoder, and return the images and links of the events that were results."""
        self._ended = True
        if self._event is not None:
            self._rescue(self._event)
            self._event = None
        found = [*worth({"data": list(self._items.values())}), *self.strays]
        most = self._limits.max_images
        return [
            each
            for place, each in enumerate(found)
            if (place < most if isinstance(each, str) else each.sink is not None)
        ]

    def _take(self, piece: bytes) -> None:
        if not self._in_data:
            line = self._line + piece
            self._line = line[:_LINE_LIMIT]
            self._in_data = line.startswith(b"data:")
            if not self._in_data:
                return
            piece = line[5:]
            if self._event is None and "partial" not in self._name:
                self._event = self._open_event()
        if self._event is not None:
            try:
                self._event.feed(piece)
            except AnswerError as error:
                self._error = self._error or error

    def _end_line(self) -> None:
        if self._in_data:
            self._take(b"\n")
            self._in_data = False
        elif not self._line.strip():
            self._end_event()
        elif self._line.startswith(b"event:"):
            self._name = self._line[6:].decode("latin-1").strip()
        self._line = b""
        self._text_left -= _LINE_COST
        self._check_text()

    def _check_text(self) -> None:
        if self._text_left < 0:
            most = self._limits.max_text_bytes
            raise AnswerError(f"the answer's text is larger than {most} bytes")

    def _open_event(self) -> DocumentDecoder:
        limits = attrs.evolve(
            self._limits,
            max_text_bytes=self._text_left,
            max_images=self._limits.max_images - self._count,
        )
        return DocumentDecoder(self._open_sink, limits)

    def _end_event(self) -> None:
        event = self._event
        if event is not None:
            self._text_left -= event.kept
            try:
                self._judge(event.finish(), event.strays)
            except AnswerError as error:
                text = error.text.strip()
                self._ended = text == _DONE
                self._error = self._error if self._ended else self._error or error
                if text and not self._ended:
                    self._rescue(event)
        self._event = None
        self._name = ""
        self._check_text()

    def _rescue(self, event: DocumentDecoder) -> None:
        """Keep the whole images of a broken event if it is known to be a result."""
        event.drain()  # the text tells the place of what waits
        told = self._name.encode() + event.excerpt
        keep = b"partial" not in told and _RESULT.search(told) is not None
        found = event.salvage()
        self._settle(found, keep=keep)
        self.strays += found if keep else ()

    def _settle(self, found: Iterable[Embedded | str], *, keep: bool) -> None:
        """Count the images of an event, or drop them."""
        for each in found:
            if not keep and isinstance(each, Embedded) and each.sink is not None:
                each.sink.discard()
            self._count += keep

    def _judge(self, event: object, strays: list[Embedded | str]) -> None:
        """Take what one event tells, or drop it."""
        if not isinstance(event, dict):
            event = {"data": event}
        kind = event.get("type")
        kind = f"{self._name} {kind}" if isinstance(kind, str) else self._name
        keep = "partial" not in kind and "partial_image_index" not in event
        self._settle([*strays, *images_in(event)], keep=keep)
        if not keep:
            return
        self.strays += strays
        if self._store(event):
            return
        self.strays += images_in(event)
        if "error" in kind or "error" in event:
            self._rest["error"] = event.get("error", event)

    def _store(self, event: dict[str, Any]) -> bool:
        """Take a result; False if the event is none."""
        stored: object
        answers = [event[name] for name in LISTS if isinstance(event.get(name), dict | list)]
        if answers:
            replaced = list(self._items.values())
            stored = items = answers[0] if isinstance(answers[0], list) else answers[:1]
            self._items = dict(enumerate(items))
        elif any(event.get(name) for name in NAMES):
            key = _identity(event) or f"result {len(self._items)}"
            replaced = [self._items.get(key)]
            stored = {name: event[name] for name in _OF_AN_ITEM if name in event}
            self._items[key] = stored
        else:
            return False
        kept = {id(image) for image in images_in(stored)}
        self.strays += [
            image for image in (*images_in(replaced), *images_in(event)) if id(image) not in kept
        ]
        if "created_at" in event:
            self._rest["created"] = event["created_at"]
        self._rest |= {
            name: event[name]
            for name in event.keys() - _OF_AN_EVENT
            if not any(images_in(event[name]))
        }
        return True


def _identity(event: dict[str, Any]) -> str | None:
    """Return what tells this image from the others of its stream, if the event says it."""
    for name in _INDICES:
        if isinstance(event.get(name), int):
            return f"index {event[name]}"
    url = event.get("url")
    return url if isinstance(url, str) and url else None
