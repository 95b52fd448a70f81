"""Which item a row of the input is: by what it asks for, not by where it stands."""

from __future__ import annotations

import functools
import hashlib
import json
import unicodedata
from array import array
from bisect import bisect_left
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING, Literal

from imagen_async.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imagen_async.batch.defaults import Defaults
    from imagen_async.wire.request import GenerationRequest

HALF = 8
"""Bytes of an id that tell what is asked; the other eight tell its prompt alone."""
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), sort_keys=True)


def body_digest(request: GenerationRequest, defaults: Defaults | None = None) -> bytes:
    """Return the digest of what a request asks for, 16 bytes.

    What must not buy the same image again is no part of it: how the image comes back, how the
    prompt's letters are composed (NFC), and space around it. Nor is ``n`` where it is 1, although
    a gateway's own default may be more: to ask such a gateway for one image where it gave four is
    then no new order, and the images of the old one stay.

    The last eight bytes are those of the prompt alone, so that an order for a prompt that was
    bought before with other fields, or with other spaces and capitals, can be told.

    Args:
        request: As the input gives it.
        defaults: Fields that the run sends where the request leaves them out.

    Raises:
        InvalidRequestError: If ``extra`` holds what JSON cannot.
    """
    template = request if defaults is None else defaults.template
    prompt: object = request.prompt
    if request.extra or template.extra:
        body = request.body() if defaults is None else defaults.fill(request).body()
        body.pop("response_format", None)
        if body.get("n") == 1:
            del body["n"]
        prompt = body["prompt"]
        if isinstance(prompt, str):  # extra may hold anything
            body["prompt"] = _composed("NFC", prompt).strip()
        try:
            canonical = _ENCODER.encode(body)
        except (TypeError, ValueError, RecursionError):
            raise InvalidRequestError("extra holds a value that JSON cannot carry.") from None
    else:  # a resume does this a million times
        head = _head(
            request.model or template.model,
            request.aspect_ratio or template.aspect_ratio,
            request.n or template.n,
        )
        canonical = f"{head}{_quoted(_composed('NFC', request.prompt).strip())}}}"
    return _half(canonical.encode("ascii")) + _half(_words(prompt))


@functools.lru_cache
def _head(model: str | None, aspect_ratio: str | None, n: int | None) -> str:
    """Return how the JSON of a body begins whose last field, by the alphabet, is the prompt."""
    fields = {"aspect_ratio": aspect_ratio, "model": model, "n": None if n == 1 else n}
    known = {name: value for name, value in fields.items() if value is not None}
    return _ENCODER.encode({**known, "prompt": ""})[:-3]


def item_id(digest: bytes, occurrence: int) -> bytes:
    """Return the id of the ``occurrence``-th equal row, counted from 1, 16 bytes."""
    if occurrence == 1:
        return digest
    return _half(digest + occurrence.to_bytes(8, "big")) + digest[HALF:]


def short(identity: bytes) -> int:
    """Return the first half of an id as a number: what sets of ids keep."""
    return int.from_bytes(identity[:HALF], "big")


def prompt_of(identity: bytes) -> int:
    """Return the half of an id that tells its prompt, as a number."""
    return int.from_bytes(identity[HALF:], "big")


def _half(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:HALF]


def _words(prompt: object) -> bytes:
    """Return a prompt without what an editor changes unasked: spaces, capitals, wide forms."""
    text = _composed("NFKC", str(prompt)).casefold()
    return " ".join(text.split()).encode("utf-8", "surrogatepass")


def _composed(form: Literal["NFC", "NFKC"], text: str) -> str:
    return text if text.isascii() else unicodedata.normalize(form, text)


class DuplicateCounter:
    """Counts equal rows while an input is read, so that each becomes an item of its own."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def enter(self, digest: bytes) -> bytes:
        """Count one more row with this digest and return the id of its item."""
        key = short(digest)
        occurrence = self._seen.get(key, 0) + 1
        self._seen[key] = occurrence
        return item_id(digest, occurrence)


class IdSet:
    """A fixed set of ids in 8 bytes each, for the hundreds of thousands that a resume skips.

    Args:
        halves: A half of each id as a number, in any order.
    """

    __slots__ = ("_sorted",)

    def __init__(self, halves: Iterable[int]) -> None:
        self._sorted = array("Q", sorted(halves))

    def __contains__(self, number: int) -> bool:
        place = bisect_left(self._sorted, number)
        return place < len(self._sorted) and self._sorted[place] == number

    def has_name(self, digits: str) -> bool:
        """Return whether an id begins with these 12 hexadecimal digits, as files' names do."""
        begins = int(digits, 16)
        place = bisect_left(self._sorted, begins << 16)
        return place < len(self._sorted) and self._sorted[place] >> 16 == begins

    def __len__(self) -> int:
        return len(self._sorted)
