"""Idempotency keys as a gateway honours them: one key, one charge, one answer."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from imagen_async.emulator.answers import Answer
    from imagen_async.emulator.ledger import Exchange

KEPT = 1000


@attrs.define
class _Replay:
    """What a key stands for; without an answer it is in the making."""

    body: dict[str, Any] | None
    answer: Answer | None = None


class Replays:
    """The newest keys and their answers.

    Args:
        honoured: Whether keys mean anything.
    """

    def __init__(self, *, honoured: bool) -> None:
        self._honoured = honoured
        self._kept: OrderedDict[tuple[str, str], _Replay] = OrderedDict()

    def begin(self, exchange: Exchange) -> Answer | str | None:
        """Take a request's key up.

        Returns:
            None if the request is the key's first; the first one's answer; or the trouble, as a
            row of the dialects' table: it is in the making, or its body was another.
        """
        name = self._name(exchange)
        if name is None:
            return None
        kept = self._kept.get(name)
        if kept is None:
            self._kept[name] = _Replay(exchange.body)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return None
        if kept.body != exchange.body:
            return "key_reused"
        return kept.answer or "conflict"

    def finish(self, exchange: Exchange, answer: Answer) -> None:
        """Keep the answer of a key's first request."""
        name = self._name(exchange)
        if name is not None and name in self._kept:
            self._kept[name].answer = answer

    def drop(self, exchange: Exchange) -> None:
        """Forget a key whose first request was turned away."""
        self._kept.pop(self._name(exchange) or ("", ""), None)

    def _name(self, exchange: Exchange) -> tuple[str, str] | None:
        if not self._honoured or exchange.idempotency_key is None:
            return None
        return exchange.key, exchange.idempotency_key
