"""A second network: the transport's port in memory, for tests that own time."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import attrs
from multidict import CIMultiDict

from imagen_async import AsyncImagen
from imagen_async.session.core import Core
from imagen_async.session.transport import ExchangeError, Head, Transport
from imagen_async.wire.verdict import FailureKind
from tests.chaos.server import PNG


@attrs.define(eq=False)
class Post:
    """One POST on its way.

    Args:
        prompt: Of its body.
        at: When it began, in the loop's seconds.
        key: Its Idempotency-Key.
        number: How many posts of this prompt there were, this one included.
    """

    prompt: str
    at: float
    key: str | None
    number: int
    outgoing: Any
    connecting: asyncio.Timeout = attrs.field(init=False)

    def send(self) -> None:
        """Note that the body was handed to the socket; the connect timeout ends."""
        self.outgoing.sent = True
        self.connecting.reschedule(None)

    def broken(self, kind: FailureKind = FailureKind.DROPPED) -> ExchangeError:
        """Return what a broken exchange raises."""
        return ExchangeError(kind, sent=self.outgoing.sent, detail="scripted")

    def image(self) -> Answer:
        """Return a good answer."""
        item = {"b64_json": base64.b64encode(PNG).decode(), "revised_prompt": self.prompt}
        return Answer(200, json.dumps({"data": [item]}).encode())


@attrs.frozen
class Answer:
    """What a gateway says: the body in pieces, each after a pause in seconds."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = attrs.field(factory=dict)
    pieces: Iterable[tuple[float, bytes]] = ()


def failed(headers: dict[str, str] | None = None) -> Answer:
    """Return a failure that is known to come before any work."""
    return Answer(500, b'{"error": {"message": "rate_limit_check_failed"}}', headers or {})


Handler = Callable[[Post], Awaitable[Answer]]


class Gateway:
    """Answers posts by a coroutine function; remembers them all.

    Args:
        handler: It may sleep, raise ``post.broken()`` and say ``post.send()``, which its return
            says too.
    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.posts: list[Post] = []
        self.open = self.peak = 0
        self.closed = 0
        self.downloads = anyio.Semaphore(8)

    @property
    def times(self) -> list[float]:
        return [post.at for post in self.posts]

    def client(self, **options: Any) -> AsyncImagen:
        """Return a client whose only way out is this gateway."""
        imagen = AsyncImagen(base_url="https://gateway.test/v1", **options)
        imagen._core = Core(imagen._core.config, transport=lambda *_: cast("Transport", self))
        return imagen

    async def post(
        self, url: Any, outgoing: Any, headers: Any, timer: Any, on_head: Callable[[Head], Any]
    ) -> Head:
        """Play one exchange inside its timer."""
        prompt = json.loads(outgoing._value)["prompt"]
        number = 1 + sum(post.prompt == prompt for post in self.posts)
        now = asyncio.get_running_loop().time()
        post = Post(prompt, now, headers.get("Idempotency-Key"), number, outgoing)
        self.posts.append(post)
        self.open += 1
        self.peak = max(self.peak, self.open)
        head = None
        try:
            async with asyncio.timeout(timer.total):
                async with asyncio.timeout(timer.aiohttp.connect) as post.connecting:
                    answer = await self.handler(post)
                    post.send()
                head = Head(answer.status, CIMultiDict(answer.headers))
                receiver = on_head(head)
                for pause, piece in [*answer.pieces, (0, answer.body)]:
                    await asyncio.sleep(pause)
                    if piece:
                        receiver.feed(piece)
        except TimeoutError:
            sent = outgoing.sent
            kind = FailureKind.TIMEOUT if sent else FailureKind.CONNECT_TIMEOUT
            raise ExchangeError(kind, sent=sent, detail="no answer in time", head=head) from None
        finally:
            self.open -= 1
        return head

    async def get(self, *_: Any) -> Head:
        """Lose every download."""
        raise ExchangeError(FailureKind.DROPPED, sent=True, detail="no files here")

    async def aclose(self) -> None:
        self.closed += 1

    def drop(self) -> None:
        self.closed += 1


@asynccontextmanager
async def scripted(handler: Handler, **options: Any) -> AsyncIterator[tuple[Gateway, AsyncImagen]]:
    """Run a client on a gateway in memory; no permit may be left."""
    gateway = Gateway(handler)
    async with gateway.client(**options) as imagen:
        yield gateway, imagen
        stats = imagen.stats()
        assert (stats.in_flight, stats.queued, gateway.open) == (0, 0, 0)


def answering(*answers: Answer | FailureKind | None) -> Handler:
    """Return a handler that gives answers in turn, None for an image; then images for ever."""
    left = list(answers)

    async def handler(post: Post) -> Answer:
        answer = left.pop(0) if left else None
        if isinstance(answer, FailureKind):
            raise post.broken(answer)
        return post.image() if answer is None else answer

    return handler
