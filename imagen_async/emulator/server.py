"""The emulator on its sockets: start, serve, stop."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import attrs
from aiohttp import web

from imagen_async.emulator.answers import front_page, index_page, json_answer
from imagen_async.emulator.control import PREFIX, control, stranger
from imagen_async.emulator.dialects import model_list
from imagen_async.emulator.faults import FAULT_HEADER, FaultRule
from imagen_async.emulator.gateway import Gateway
from imagen_async.emulator.ranges import completes, ranged
from imagen_async.emulator.requests import bearer_key
from imagen_async.emulator.responder import deliver
from imagen_async.emulator.settings import Settings
from imagen_async.emulator.tasks import PATH as TASK_PATH

if TYPE_CHECKING:
    from imagen_async.emulator.answers import Answer
    from imagen_async.emulator.ledger import Exchange, Ledger

GENERATE = ("/v1/images/generations", "/images/generations")
MODELS = ("imagen4", "imagen4-fast", "imagen4-ultra")
MAX_BODY = 16 * 1024 * 1024
"""Bytes of a request; more gets nginx's 413 page."""

COALESCE_SECONDS = 0.05
"""Seconds that requests in flight get when the emulator stops."""


@attrs.define
class _Life:
    """What lives only while the emulator runs."""

    runner: web.ServerRunner | None = None
    port: int = 0
    thread: ExitStack | None = None


@attrs.frozen(kw_only=True, eq=False)
class Emulator(Settings):
    """An image gateway on loopback, for ``async with``, or ``with`` to run in a thread of its own.

    Example::

        async with Emulator(rpm=60) as emulator:
            async with AsyncImagen(base_url=emulator.base_url) as imagen:
                emulator.fail_next("504")
                ...
        emulator.assert_charged_once("A cat")

    Its settings are those of ``Settings``, all by keyword. The ledger outlives the block; stopped
    and started again, the emulator keeps its port, so that a client meets a refused connection
    in between.

    Raises:
        ValueError: If a setting is out of range.
    """

    gateway: Gateway = attrs.field(
        init=False, repr=False, default=attrs.Factory(Gateway, takes_self=True)
    )
    _life: _Life = attrs.field(init=False, repr=False, factory=_Life)

    @property
    def origin(self) -> str:
        """Such as ``http://127.0.0.1:40123``.

        Raises:
            RuntimeError: If the emulator was never started.
        """
        if not self._life.port:
            raise RuntimeError("The emulator is not running; enter it with async with.")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self._life.port}"

    @property
    def base_url(self) -> str:
        """What a client is given: the origin and ``/v1``.

        Raises:
            RuntimeError: If the emulator was never started.
        """
        return f"{self.origin}/v1"

    @property
    def ledger(self) -> Ledger:
        """What was asked and charged, per prompt; live."""
        return self.gateway.ledger

    @property
    def requests(self) -> list[Exchange]:
        """The newest requests for images, oldest first."""
        return self.gateway.log.newest

    def fail_next(
        self,
        fault: str,
        *,
        times: int = 1,
        prompt: str | None = None,
        pattern: str | None = None,
        key: str | None = None,
    ) -> None:
        """Bring a fault down on the next requests, after those already planned.

        Args:
            fault: ``name`` or ``name:argument``; the names are in ``FAULTS``.
            times: On how many requests.
            prompt: Only on prompts that hold this substring.
            pattern: Only on prompts of this shape; see ``FaultRule``.
            key: Only on requests with this API key.

        Raises:
            ValueError: If there is no such fault.
        """
        rule = FaultRule(fault=fault, times=times, prompt=prompt, pattern=pattern, key=key)
        self.gateway.plan.add(rule)

    def fail(self, *rules: FaultRule | str) -> None:
        """Add fault rules; one without ``times`` stands until ``reset``.

        Args:
            rules: Rules, or fault texts that strike every request.

        Raises:
            ValueError: If there is no such fault.
        """
        for rule in rules:
            self.gateway.plan.add(rule)

    def assert_charged_once(self, prompt: str | None = None) -> None:
        """Check that no prompt was charged twice, or that one was charged exactly once.

        Args:
            prompt: The prompt that must have been charged once; None checks them all.

        Raises:
            AssertionError: If not, with a table of the accounts at fault.
        """
        __tracebackhide__ = True
        self.ledger.assert_charged_once(prompt)

    def reset(self) -> None:
        """Forget requests, charges, images and added faults."""
        self.gateway.reset()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: If the port is taken.
            RuntimeError: If it runs already.
        """
        if self._life.runner is not None:
            raise RuntimeError("The emulator is running already.")
        server = web.Server(self._handle, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=COALESCE_SECONDS)
        await runner.setup()
        try:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            address = self.host, self._life.port or self.port
            listener = socket.create_server(address, family=family)
            await web.SockSite(runner, listener, backlog=1024).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._life.runner = runner
        self._life.port = listener.getsockname()[1]
        self.gateway.origin = self.origin

    async def stop(self) -> None:
        """Close every connection; the ledger stays readable."""
        runner, self._life.runner = self._life.runner, None
        if runner is not None:
            await runner.cleanup()
            await self.gateway.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __enter__(self) -> Self:
        from anyio.from_thread import start_blocking_portal

        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            stack.enter_context(portal.wrap_async_context_manager(self))
            self._life.thread = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        thread, self._life.thread = self._life.thread, None
        if thread is not None:
            thread.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            raw = await _body_of(request)
        except ConnectionError:
            return web.Response()  # the client went away
        except web.RequestPayloadError:
            response, _ = await deliver(request, front_page(400))
            request.protocol.force_close()
            return response
        if raw is None:
            return (await deliver(request, front_page(413, Connection="close")))[0]
        if request.path in GENERATE and request.method == "POST":
            exchange = self.gateway.begin(raw, request.headers)
            answer = await self.gateway.answer(exchange, request.headers.get(FAULT_HEADER))
            response, whole = await deliver(request, answer)
            self.gateway.finish(exchange, answer, whole=whole)
            return response
        if request.path.startswith("/files/") and request.method in ("GET", "HEAD"):
            return await self._file(request)
        response, whole = await deliver(request, self._page(request, raw))
        if whole and request.path.startswith(TASK_PATH):
            self.gateway.collected(request.path.removeprefix(TASK_PATH))
        return response

    async def _file(self, request: web.BaseRequest) -> web.StreamResponse:
        gallery = self.gateway.gallery
        name = request.path.removeprefix("/files/")
        etag = request.headers.get("If-None-Match")
        direct = "direct" in request.query
        answer = await gallery.fetch(name, now=self.gateway.now, etag=etag, direct=direct)
        if request.method == "GET":
            wanted, condition = request.headers.get("Range"), request.headers.get("If-Range")
            answer = ranged(answer, wanted, condition)
        response, whole = await deliver(request, answer)
        if whole and completes(answer) and request.method == "GET":
            gallery.delivered(name)
        return response

    def _page(self, request: web.BaseRequest, raw: bytes) -> Answer:
        path = request.path
        if path == "/v1/models" and request.method == "GET":
            return json_answer(model_list(tuple(self.models or MODELS)))
        if path.startswith("/v1/models/") and request.method == "GET":
            return self.gateway.model(path.removeprefix("/v1/models/"), self.models or MODELS)
        if path.startswith(TASK_PATH) and request.method == "GET" and self.tasks is not None:
            return self.gateway.poll(path.removeprefix(TASK_PATH), bearer_key(request.headers))
        if path == "/v1" or path.startswith("/v1/"):
            return self.gateway.unknown_path(f"{request.method} {path}")
        local = request.get_extra_info("sockname") or (self.host,)
        headers = request.headers
        refusal = stranger(headers.get("Host", ""), headers.get("Origin"), {self.host, local[0]})
        if refusal is not None:
            return refusal
        log = self.gateway.log_api.answer(path, request.query, bearer_key(headers))
        if log is not None and request.method == "GET":
            return log
        if path.startswith(PREFIX):
            name = path.removeprefix(PREFIX)
            return control(self.gateway, request.method, name, raw, request.content_type)
        return index_page()


async def _body_of(request: web.BaseRequest) -> bytes | None:
    if request.content_length is not None and request.content_length > MAX_BODY:
        return None
    raw = bytearray()
    async for piece in request.content.iter_any():
        raw += piece
        if len(raw) > MAX_BODY:
            return None
    return bytes(raw)
