"""Which item a row of the input is: by what it asks for, not by where it stands."""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

from imagen_async.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imagen_async.wire.request import GenerationRequest

ID_BYTES = 16
"""Bytes of an item's id; a file's name shows the first 6 of them as 12 hex digits."""
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), sort_keys=True)


def body_digest(request: GenerationRequest, model: str | None = None) -> bytes:
    """Return the digest of what a request asks for.

    How the image comes back is no part of it: asking for a link instead of bytes must not buy
    the same image again.

    Args:
        request: As the input gives it.
        model: The client's, for a request that names none.

    Raises:
        InvalidRequestError: If ``extra`` holds what JSON cannot.
    """
    body = request.body()
    body.pop("response_format", None)
    if model is not None:
        body.setdefault("model", model)
    try:
        canonical = _ENCODER.encode(body).encode("ascii")
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequestError("extra holds a value that JSON cannot carry.") from None
    return hashlib.sha256(canonical).digest()[:ID_BYTES]


def item_id(digest: bytes, occurrence: int) -> bytes:
    """Return the id of the ``occurrence``-th equal row, counted from 1, 16 bytes."""
    if occurrence == 1:
        return digest
    return hashlib.sha256(digest + occurrence.to_bytes(8, "big")).digest()[:ID_BYTES]


def short(identity: bytes) -> int:
    """Return the first 8 bytes of an id as a number: what sets of ids keep."""
    return int.from_bytes(identity[:8], "big")


class Census:
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
        identities: The ids, in any order.
    """

    __slots__ = ("_sorted",)

    def __init__(self, identities: Iterable[bytes]) -> None:
        self._sorted = array("Q", sorted(map(short, identities)))

    def __contains__(self, identity: bytes) -> bool:
        number = short(identity)
        place = bisect_left(self._sorted, number)
        return place < len(self._sorted) and self._sorted[place] == number

    def has_name(self, digits: str) -> bool:
        """Return whether an id begins with these 12 hexadecimal digits, as files' names do."""
        begins = int(digits, 16)
        place = bisect_left(self._sorted, begins << 16)
        return place < len(self._sorted) and self._sorted[place] >> 16 == begins

    def __len__(self) -> int:
        return len(self._sorted)
