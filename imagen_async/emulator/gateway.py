"""The gateway itself: a request in, an answer out, the ledger kept."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.emulator.answers import (
    DROPPED,
    Answer,
    index_page,
    json_answer,
    on_the_way,
    spoiled,
    timed_out,
)
from imagen_async.emulator.dialects import cost_headers, model_row, with_cost
from imagen_async.emulator.faults import FAULT_HEADER, STATUSES, WORDS, Fault, FaultPlan, Stage
from imagen_async.emulator.file_store import Gallery
from imagen_async.emulator.items import ItemMaker, Job
from imagen_async.emulator.ledger import Exchange, Ledger, RequestLog, request_id
from imagen_async.emulator.limits import Balances, QueueFullError, RateWindow, Slots
from imagen_async.emulator.log_api import LogApi
from imagen_async.emulator.replays import Replays
from imagen_async.emulator.requests import Order, OrderError, bearer_key, fields_of, read_order
from imagen_async.emulator.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from imagen_async.emulator.dialects import Dialect, ErrorCase
    from imagen_async.emulator.settings import Settings


class OrderRejectedError(Exception):
    """The request ends here, uncharged.

    Args:
        answer: What it is told.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


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
        self.gallery: Gallery = Gallery(settings.seed)
        self.tasks: Tasks = Tasks(settings)
        self._maker = ItemMaker(settings, self.gallery)
        self._slots = Slots(settings.concurrency, settings.queue)
        self._started = time.monotonic()
        self._works: set[asyncio.Task[Answer]] = set()
        self._begin()

    def _begin(self) -> None:
        settings = self.settings
        self.log: RequestLog = RequestLog(settings.log_size)
        self.plan: FaultPlan = FaultPlan(settings.faults, settings.seed)
        self.log_api: LogApi = LogApi(settings)
        self._rate = RateWindow(settings.rpm)
        self._balances = Balances(settings.balance)
        self._replays = Replays(honoured=settings.honour_idempotency)

    @property
    def now(self) -> float:
        """Seconds since the start, on a clock that runs ``time_scale`` times as fast."""
        return (time.monotonic() - self._started) * self.settings.time_scale

    def reset(self) -> None:
        """Forget everything but the settings; the settings' faults are in force again."""
        self.ledger.clear()
        self.gallery.clear()
        self.tasks.clear()
        self._begin()

    async def close(self) -> None:
        """End what still runs."""
        works = list(self._works)
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        await self.tasks.close()
        self._slots.clear()
        self.gallery.studio.close()

    def begin(self, raw: bytes, headers: Mapping[str, str]) -> Exchange:
        """Open the books for a request for images.

        Args:
            raw: Its body.
            headers: Its headers.
        """
        exchange = self.log.begin(
            at=round(self.now, 3),
            key=bearer_key(headers),
            body=fields_of(raw),
            idempotency_key=headers.get("Idempotency-Key"),
            client_request_id=headers.get("X-Client-Request-Id"),
            litellm_call_id=headers.get("x-litellm-call-id"),
        )
        exchange.request_id = request_id(self.settings.seed, exchange.number)
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
        images = exchange.charged and answer.status < 300 and exchange.task is None
        exchange.delivered = whole and images
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
            job = self._admit(exchange, header)
        except OrderRejectedError as refused:
            return self._refused(exchange, refused)
        work = self._work(job)
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
        self.log_api.note(exchange, 0.0, 0.0)
        return refused.answer

    def _admit(self, exchange: Exchange, header: str | None) -> Job:
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
        return Job(exchange, order, fault, file_fault)

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
        body = self.dialect.error_body(trouble, exchange.request_id)
        headers = self._headers(exchange) | dict(headers or {})
        return Answer(trouble.status, body, headers=headers)

    def _headers(self, exchange: Exchange) -> dict[str, str]:
        headers = self.dialect.headers(exchange.request_id)
        if self.settings.call_log == "aimlapi":
            headers["x-inference-id"] = exchange.request_id
        if self.settings.call_log == "litellm":
            headers["x-litellm-call-id"] = exchange.litellm_call_id or exchange.request_id
        return headers

    def unknown_path(self, about: str) -> Answer:
        """Return the 404 of an API path that does not exist.

        Args:
            about: The method and the path.
        """
        return self._unasked(self.dialect.trouble("unknown_path", about))

    def model(self, name: str, models: Collection[str]) -> Answer:
        """Return what is told of one model.

        Args:
            name: Its id.
            models: Those that there are.
        """
        if name in models:
            return json_answer(model_row(name))
        return self._unasked(self.dialect.trouble("no_model", name))

    def _unasked(self, trouble: ErrorCase) -> Answer:
        """Return an error to a request that is not for images."""
        id_ = request_id(self.settings.seed, 0)
        body = self.dialect.error_body(trouble, id_)
        return Answer(trouble.status, body, headers=self.dialect.headers(id_))

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
        words = WORDS[fault.name]
        trouble = self.dialect.trouble(words, about.get(words, ""), status=STATUSES.get(fault.name))
        return self._error(exchange, trouble)

    async def _work(self, job: Job) -> Answer:
        exchange, settings = job.exchange, self.settings
        kept = self._replays.begin(exchange)
        if isinstance(kept, str):
            return self._error(exchange, self.dialect.trouble(kept))
        if kept is not None:
            return on_the_way(kept, job.fault)
        headers = self._headers(exchange)
        headers |= cost_headers(settings.report_cost, settings.price * job.images)
        try:
            if settings.tasks is not None:
                whole = self._open_task(job, headers)
                self._replays.finish(exchange, whole)
                return on_the_way(whole, job.fault)
            body = await self._generate(job)
            partials = await self._maker.partials(job.order)
        except OrderRejectedError as refused:
            self._replays.drop(exchange)
            return self._refused(exchange, refused)
        if settings.honour_idempotency:
            self._replays.finish(exchange, spoiled(body, headers, None, partials))
        return spoiled(body, headers, job.fault, partials)

    async def _generate(self, job: Job) -> dict[str, Any]:
        began = time.monotonic()
        try:
            async with self._slots.held(job.exchange.key):
                self._pay(job)
                data = await self._draw(job)
        except QueueFullError:
            raise self._trouble(job.exchange, "queue") from None
        usd = self._charge(job, job.images, time.monotonic() - began)
        return self._success(job.order, data, usd)

    def _success(self, order: Order, data: list[dict[str, Any]], usd: float) -> dict[str, Any]:
        image_format = self._maker.format_of(order)
        body = self.dialect.success(int(time.time()), data, order, image_format)
        return with_cost(body, self.settings.report_cost, usd)

    def _open_task(self, job: Job, headers: Mapping[str, str]) -> Answer:
        """Charge an order at once, and draw it in the background."""
        self._pay(job)
        usd = self._charge(job, job.images)

        async def work() -> dict[str, Any] | None:
            data = await self._draw(job)
            if job.fault is not None and job.fault.name == "task_failed":
                self._charge(job, -job.images)
                return None
            return self._success(job.order, data, usd)

        job.exchange.task = f"task-{job.exchange.request_id}"
        answer = self.tasks.open(job.exchange, work(), self.now, headers)
        if job.fault is not None and job.fault.name == "task_lost":
            self.tasks.lose(job.exchange.task)
        return answer

    def poll(self, name: str, key: str) -> Answer:
        """Return the answer to a poll.

        Args:
            name: The task's id.
            key: The API key.
        """
        answer = self.tasks.poll(name, key, self.now)
        return answer or self._unasked(self.dialect.trouble("task_gone"))

    def collected(self, name: str) -> None:
        """Note that a task's answer left whole.

        Args:
            name: The task's id.
        """
        exchange = self.tasks.finished(name)
        if exchange is not None and exchange.charged and not exchange.delivered:
            exchange.delivered = True
            self.ledger.account(exchange.prompt).delivered += 1

    async def _draw(self, job: Job) -> list[dict[str, Any]]:
        await asyncio.sleep(self.settings.seconds_of(job.exchange.number))
        account = self.ledger.account(job.exchange.prompt)
        return await self._maker.items(job, account, origin=self.origin, now=self.now)

    def _pay(self, job: Job) -> None:
        if not self._balances.pay(job.exchange.key, job.images):
            raise self._trouble(job.exchange, "quota")

    def _charge(self, job: Job, number: int, seconds: float = 0.0) -> float:
        """Book images and what they cost; fewer than none are given back."""
        exchange, usd = job.exchange, self.settings.price * number
        account = self.ledger.account(exchange.prompt)
        account.charged += 1 if number > 0 else -1
        account.images += number
        account.cost += usd
        exchange.charged = number > 0
        exchange.images += number
        self.log_api.note(exchange, seconds, usd)
        return usd
