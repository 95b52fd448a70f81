"""The gateway itself: a request in, an answer out, the ledger kept."""

from __future__ import annotations

import asyncio
import json
import string
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.emulator.answers import (
    AS_BASE64,
    AS_LINK,
    DROPPED,
    Answer,
    base64_of,
    front_page,
    index_page,
    spoiled,
    timed_out,
)
from imagen_async.emulator.drawing import OTHERS, Recipe, with_comment
from imagen_async.emulator.faults import FAULT_HEADER, Fault, FaultPlan, Stage, chance
from imagen_async.emulator.file_store import Gallery
from imagen_async.emulator.ledger import Account, Exchange, Ledger, RequestLog
from imagen_async.emulator.limits import Balances, QueueFullError, RateWindow, Slots
from imagen_async.emulator.requests import Order, OrderError, fields_of, read_order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imagen_async.emulator.dialects import Dialect, ErrorCase
    from imagen_async.emulator.settings import Settings

REPLAYS_KEPT = 1000


class OrderRejectedError(Exception):
    """The request ends here, uncharged.

    Args:
        answer: What it is told.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


_WORDS: Mapping[str, str] = {
    "429": "rate",
    "503": "overloaded",
    "503_queue": "queue",
    "500": "internal",
    "500_sensitive": "sensitive",
    "400": "moderation",
    "401": "bad_key",
    "402": "payment",
    "403_quota": "quota",
    "no_channel": "no_channel",
}
"""Faults that are a trouble in the dialect's words."""

_STATUS = {"403_quota": 403, "no_channel": 503}
"""Faults whose name promises a status that a dialect would change."""


class Gateway:
    """An image gateway without its sockets.

    Args:
        settings: How it behaves.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.origin = ""
        self.dialect: Dialect = settings.voice
        self.ledger: Ledger = Ledger()
        self.log: RequestLog = RequestLog(settings.log_size)
        self.plan: FaultPlan = FaultPlan(settings.faults, settings.seed)
        self.gallery: Gallery = Gallery(settings.seed)
        self._started = time.monotonic()
        self._rate = RateWindow(settings.rpm)
        self._slots = Slots(settings.concurrency, settings.queue)
        self._balances = Balances(settings.balance)
        self._replays: OrderedDict[tuple[str, str], Answer | None] = OrderedDict()
        self._works: set[asyncio.Task[Answer]] = set()

    @property
    def now(self) -> float:
        """Seconds since the start, on a clock that runs ``time_scale`` times as fast."""
        return (time.monotonic() - self._started) * self.settings.time_scale

    def reset(self) -> None:
        """Forget everything but the settings; the settings' faults are in force again."""
        self.ledger.clear()
        self.log.clear()
        self.gallery.clear()
        self._rate.clear()
        self._balances.clear()
        self._replays.clear()
        self.plan.clear()
        for rule in self.settings.faults:
            self.plan.add(rule)

    async def close(self) -> None:
        """End what still runs."""
        works = list(self._works)
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        self._slots.clear()
        self.gallery.studio.close()

    def begin(self, raw: bytes, headers: Mapping[str, str]) -> Exchange:
        """Open the books for a request for images.

        Args:
            raw: Its body.
            headers: Its headers.
        """
        key = headers.get("Authorization", "").removeprefix("Bearer").strip()
        exchange = self.log.begin(
            at=round(self.now, 3),
            key=key,
            body=fields_of(raw),
            idempotency_key=headers.get("Idempotency-Key"),
        )
        if exchange.prompt:
            account = self.ledger.account(exchange.prompt)
            account.posts += 1
            if exchange.idempotency_key and exchange.idempotency_key not in account.keys:
                account.keys.append(exchange.idempotency_key)
        return exchange

    def finish(self, exchange: Exchange, answer: Answer, *, whole: bool) -> None:
        """Close the books.

        Args:
            exchange: The request's.
            answer: What it got.
            whole: Whether the answer left whole.
        """
        exchange.delivered = whole and exchange.charged and answer.status < 300
        exchange.status = answer.status if answer.framing.has_head else None
        if exchange.prompt:
            self.ledger.account(exchange.prompt).delivered += exchange.delivered
        if self.settings.on_exchange is not None:
            self.settings.on_exchange(exchange)

    async def answer(self, exchange: Exchange, header: str | None) -> Answer:
        """Return the answer to a request for images.

        Args:
            exchange: Its books.
            header: The fault it brings along.
        """
        try:
            order, fault, file_fault = self._admit(exchange, header)
        except OrderRejectedError as refused:
            return self._refused(exchange, refused)
        work = self._work(exchange, order, fault, file_fault)
        if self.settings.front_timeout is None:
            return await work
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        seconds = self.settings.front_timeout / self.settings.time_scale
        done, _ = await asyncio.wait({task}, timeout=seconds)
        return task.result() if done else timed_out(self.settings.front)

    def _refused(self, exchange: Exchange, refused: OrderRejectedError) -> Answer:
        if exchange.prompt:
            self.ledger.account(exchange.prompt).refused += 1
        return refused.answer

    def _admit(
        self, exchange: Exchange, header: str | None
    ) -> tuple[Order, Fault | None, Fault | None]:
        settings = self.settings
        if settings.keys is not None and exchange.key not in settings.keys:
            raise self._trouble(exchange, "bad_key")
        wait = self._rate.take(exchange.key, self.now)
        if wait is not None:
            raise self._trouble(exchange, "rate", settings.rpm, wait=wait)
        fault, file_fault = self._faults(exchange, header)
        if fault is not None and fault.stage is Stage.BEFORE:
            raise OrderRejectedError(self._instead(exchange, fault))
        try:
            order = read_order(exchange.body)
        except OrderError as error:
            raise self._trouble(exchange, error.trouble, error.about) from None
        if settings.models is not None and order.model not in settings.models:
            raise self._trouble(exchange, "no_channel", order.model)
        return order, fault, file_fault

    def _faults(self, exchange: Exchange, header: str | None) -> tuple[Fault | None, Fault | None]:
        try:
            brought = [Fault.parse(text) for text in (header or "").split(",") if text.strip()]
        except ValueError as error:
            raise self._trouble(exchange, "invalid", f"{FAULT_HEADER} {error}") from None
        found: list[Fault | None] = []
        for file in (False, True):
            own = next((fault for fault in brought if (fault.stage is Stage.FILE) is file), None)
            number, prompt, key = exchange.number, exchange.prompt, exchange.key
            found.append(own or self.plan.strike(number, prompt, key, file=file))
        fault, file_fault = found
        exchange.fault = fault.text if fault else None
        exchange.file_fault = file_fault.text if file_fault else None
        return fault, file_fault

    def _trouble(
        self, exchange: Exchange, name: str, about: object = "", *, wait: float | None = None
    ) -> OrderRejectedError:
        headers = {}
        if wait is not None and self.dialect.name == "openai":  # the other two never send it
            headers["Retry-After"] = str(max(1, round(wait / self.settings.time_scale)))
        return OrderRejectedError(self._error(exchange, self.dialect.trouble(name, about), headers))

    def _error(
        self, exchange: Exchange, trouble: ErrorCase, headers: Mapping[str, str] | None = None
    ) -> Answer:
        request_id = self.request_id(exchange.number)
        body = self.dialect.error_body(trouble, request_id)
        return Answer(
            trouble.status, body, headers=self.dialect.headers(request_id) | dict(headers or {})
        )

    def unknown_path(self, about: str) -> Answer:
        """Return the 404 of an API path that does not exist.

        Args:
            about: The method and the path.
        """
        request_id = self.request_id(0)
        trouble = self.dialect.trouble("unknown_path", about)
        body = self.dialect.error_body(trouble, request_id)
        return Answer(trouble.status, body, headers=self.dialect.headers(request_id))

    def request_id(self, number: int) -> str:
        """Return the gateway's own id of a request."""
        digits = int(chance(self.settings.seed, "id", number) * 62**8)
        letters = "".join(_ALPHABET[digits // 62**place % 62] for place in range(8))
        return f"{time.strftime('%Y%m%d%H%M%S', time.gmtime())}{number:09d}{letters}"

    def _instead(self, exchange: Exchange, fault: Fault) -> Answer:
        """Return what a fault before generation answers."""
        model = exchange.body.get("model") or "" if exchange.body else ""
        about = {"rate": self.settings.rpm or 10, "no_channel": model}
        match fault.name:
            case "accept_then_close":
                return DROPPED
            case "html":
                return index_page()
            case "429_empty":
                return Answer(429, content_type="text/plain")
            case "redirect_307":
                location = f"{self.origin}/v1/images/generations?moved=1"
                return Answer(307, content_type="text/plain", headers={"Location": location})
            case "retry_after":
                trouble = self.dialect.trouble("rate", about["rate"])
                return self._error(exchange, trouble, {"Retry-After": fault.argument})
            case "error_in_200":
                trouble = self.dialect.trouble("moderation", status=200)
                return self._error(exchange, attrs.evolve(trouble, code=fault.argument))
            case "status":
                trouble = self.dialect.trouble("unknown", fault.argument, status=fault.number)
                return self._error(exchange, trouble)
        words = _WORDS[fault.name]
        trouble = self.dialect.trouble(words, about.get(words, ""), status=_STATUS.get(fault.name))
        return self._error(exchange, trouble)

    async def _work(
        self, exchange: Exchange, order: Order, fault: Fault | None, file_fault: Fault | None
    ) -> Answer:
        replay = (exchange.key, exchange.idempotency_key or "")
        replayed = self.settings.honour_idempotency and exchange.idempotency_key is not None
        try:
            if replayed and replay in self._replays:
                kept = self._replays[replay]
                return kept or self._error(exchange, self.dialect.trouble("conflict"))
            if replayed:
                self._replays[replay] = None
            body = await self._generate(exchange, order, fault, file_fault)
        except OrderRejectedError as refused:
            self._replays.pop(replay, None)
            return self._refused(exchange, refused)
        headers = self.dialect.headers(self.request_id(exchange.number))
        if replayed:
            self._replays[replay] = spoiled(body, headers, None)
            while len(self._replays) > REPLAYS_KEPT:
                self._replays.popitem(last=False)
        return spoiled(body, headers, fault)

    async def _generate(
        self, exchange: Exchange, order: Order, fault: Fault | None, file_fault: Fault | None
    ) -> dict[str, Any]:
        name = fault.name if fault else ""
        number = order.n + (name == "more")
        account = self.ledger.account(exchange.prompt)
        try:
            async with self._slots.held(exchange.key):
                if not self._balances.pay(exchange.key, number):
                    raise self._trouble(exchange, "quota")
                await asyncio.sleep(self.settings.seconds_of(exchange.number))
                recipes = [self._recipe(order, name, index) for index in range(number)]
                if self._as_links(order, name):
                    data = [self._link(order, account, file_fault, recipe) for recipe in recipes]
                else:
                    data = [await self._inline(order, name, recipe) for recipe in recipes]
        except QueueFullError:
            raise self._trouble(exchange, "queue") from None
        exchange.charged = True
        exchange.images = number
        account.charged += 1
        account.images += number
        return self.dialect.success(int(time.time()), data, order.size)

    def _recipe(self, order: Order, fault: str, index: int) -> Recipe:
        settings = self.settings
        size = order.size
        if fault == "wrong_size":
            size = (640, 640) if size != (640, 640) else (512, 512)
        style = "text" if fault == "not_an_image" else settings.draw
        style = fault if fault in OTHERS else style
        seed = settings.seed + order.seed
        return Recipe(order.prompt, size, index, seed, style, settings.image_format)

    def _as_links(self, order: Order, fault: str) -> bool:
        if fault in AS_LINK or fault in AS_BASE64:
            return fault in AS_LINK
        links = self.dialect.sends_links(order.model, order.response_format)
        return links is not (fault == "wrong_format")

    def _link(
        self, order: Order, account: Account, fault: Fault | None, recipe: Recipe
    ) -> dict[str, Any]:
        ttl = self.settings.url_ttl
        expires = None if ttl is None else self.now + ttl
        picture = self.gallery.add(recipe, account, expires, fault)
        url = f"{self.origin}/files/{picture.name}"
        return self.dialect.item(url=url, b64_json=None, prompt=order.prompt)

    async def _inline(self, order: Order, fault: str, recipe: Recipe) -> dict[str, Any]:
        data = await self.gallery.studio.draw(recipe)
        if fault == "b64_unpadded" and len(data) % 3 == 0:
            data = with_comment(data, "")
        return self.dialect.item(url=None, b64_json=base64_of(data), prompt=order.prompt)


_ALPHABET = string.ascii_letters + string.digits


def json_answer(value: Any, status: int = 200) -> Answer:
    """Return an answer that carries a JSON value."""
    return Answer(status, json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def too_large() -> Answer:
    """Return what the front says to a body that is too large."""
    return attrs.evolve(front_page(413), headers={"Server": "nginx/1.22.1", "Connection": "close"})
