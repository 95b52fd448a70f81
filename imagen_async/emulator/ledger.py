"""Who asked, what was made, and what it cost: the emulator's memory."""

from __future__ import annotations

import string
import time
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.emulator.faults import chance

if TYPE_CHECKING:
    from collections.abc import Iterable


@attrs.define
class Account:
    """What one prompt, or all of them, brought about.

    Args:
        posts: Requests received.
        refused: Requests answered without a charge.
        charged: Generations charged: finished, delivered or not.
        images: Images made, all of them charged.
        delivered: Charged answers that left whole.
        downloads: Image files that left whole.
        keys: Idempotency keys in the order in which they were first seen.
        cost: What was charged, in USD.
    """

    posts: int = 0
    refused: int = 0
    charged: int = 0
    images: int = 0
    delivered: int = 0
    downloads: int = 0
    keys: list[str] = attrs.field(factory=list)
    cost: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the account as JSON values."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        return counts | {"cost": round(self.cost, 6), "keys": list(self.keys)}


_COUNTS = ("posts", "refused", "charged", "images", "delivered", "downloads")


class Ledger(dict[str, Account]):
    """One account per prompt; a prompt never seen has an account of zeros."""

    def __missing__(self, prompt: str) -> Account:
        return Account()

    def __repr__(self) -> str:
        return f"<Ledger of {len(self)} prompts: {self.total}>"

    def account(self, prompt: str) -> Account:
        """Return the prompt's account, opened if there was none."""
        return self.setdefault(prompt, Account())

    @property
    def total(self) -> Account:
        """The sums over all prompts; ``keys`` stays empty."""
        total = Account()
        for account in list(self.values()):
            for name in _COUNTS:
                setattr(total, name, getattr(total, name) + getattr(account, name))
            total.cost = round(total.cost + account.cost, 6)
        return total

    def as_json(self) -> dict[str, Any]:
        """Return totals and accounts as JSON values."""
        prompts = {prompt: account.as_json() for prompt, account in list(self.items())}
        total = self.total.as_json()
        del total["keys"]
        return {"total": total, "prompts": prompts}

    def assert_charged_once(self, prompt: str | None = None) -> None:
        """Check that no prompt was charged twice, or that one was charged exactly once.

        Args:
            prompt: The prompt that must have been charged once; None checks them all.

        Raises:
            AssertionError: If not, with a table of the accounts at fault; also if nothing was
                ordered at all: a test that reached no emulator has shown nothing.
        """
        if not self:
            raise AssertionError("Nothing was ordered: no prompt has reached the emulator.")
        if prompt is not None:
            if self[prompt].charged != 1:
                raise AssertionError(_table("Not charged once:", [(prompt, self[prompt])]))
            return
        twice = [(prompt, account) for prompt, account in list(self.items()) if account.charged > 1]
        if twice:
            raise AssertionError(_table("Charged more than once:", twice))


def _table(title: str, rows: Iterable[tuple[str, Account]]) -> str:
    lines = [title, "  ".join(_COUNTS) + "  prompt"]
    for prompt, account in rows:
        counts = (str(getattr(account, name)).rjust(len(name)) for name in _COUNTS)
        lines.append("  ".join([*counts, repr(prompt if len(prompt) <= 60 else prompt[:59] + "…")]))
    return "\n".join(lines)


@attrs.define
class Exchange:
    """One request for images and how it ended.

    Args:
        number: Counted from 1.
        request_id: The gateway's own id of it.
        at: Seconds since the emulator started.
        key: The caller's API key.
        body: The request's fields, as sent; None if they were no JSON object.
        idempotency_key: The ``Idempotency-Key`` header.
        client_request_id: The ``X-Client-Request-Id`` header.
        litellm_call_id: The ``x-litellm-call-id`` header.
        fault: The fault that struck it.
        file_fault: The fault laid on its images' links.
        status: The answer's status; None while there is none, or when none was sent.
        charged: Whether it was charged.
        images: Images made.
        delivered: Whether the whole answer left.
        task: The id of the task that it was answered with.
    """

    number: int
    request_id: str = ""
    at: float = 0.0
    key: str = ""
    body: dict[str, Any] | None = None
    idempotency_key: str | None = None
    client_request_id: str | None = None
    litellm_call_id: str | None = None
    fault: str | None = None
    file_fault: str | None = None
    status: int | None = None
    charged: bool = False
    images: int = 0
    delivered: bool = False
    task: str | None = None

    @property
    def prompt(self) -> str:
        """The prompt; empty if there was none that is a text."""
        prompt = self.body.get("prompt") if self.body else None
        return prompt if isinstance(prompt, str) else ""

    def as_json(self) -> dict[str, Any]:
        """Return the exchange as JSON values, the key shortened."""
        shown = attrs.asdict(self)
        shown["key"] = self.key if len(self.key) <= 8 else f"{self.key[:3]}***{self.key[-2:]}"
        return shown


_ALPHABET = string.ascii_letters + string.digits


def request_id(seed: int, number: int) -> str:
    """Return the gateway's own id of a request, which has the time in it.

    Args:
        seed: The emulator's.
        number: The request's, counted from 1.
    """
    digits = int(chance(seed, "id", number) * 62**8)
    letters = "".join(_ALPHABET[digits // 62**place % 62] for place in range(8))
    return f"{time.strftime('%Y%m%d%H%M%S', time.gmtime())}{number:09d}{letters}"


class RequestLog:
    """The newest exchanges.

    Args:
        size: How many are kept.
    """

    def __init__(self, size: int) -> None:
        self._kept: deque[Exchange] = deque(maxlen=size)
        self._numbers = count(1)

    def begin(self, **fields: Any) -> Exchange:
        """Start an exchange under the next number."""
        exchange = Exchange(next(self._numbers), **fields)
        self._kept.append(exchange)
        return exchange

    @property
    def newest(self) -> list[Exchange]:
        """The kept exchanges, oldest first."""
        return list(self._kept)
