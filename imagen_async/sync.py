"""Imagen: AsyncImagen for code that blocks."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from imagen_async.blocking import BlockingStream, Feed, Portal
from imagen_async.client import AsyncImagen
from imagen_async.session.core import GRACE
from imagen_async.session.many import AHEAD

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from types import TracebackType

    from imagen_async.policy.config import Limits, Timeouts
    from imagen_async.policy.retry import RetryPolicy
    from imagen_async.session.core import Stats
    from imagen_async.session.events import Event
    from imagen_async.session.many import Stream
    from imagen_async.wire.request import GenerationRequest

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[AsyncImagen, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Imagen, P], T]:
    @functools.wraps(method)
    def call(self: Imagen, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._portal.call(functools.partial(method, self._client, *args, **kwargs))

    return call


class Imagen:
    """AsyncImagen for scripts, notebooks and threads: the same methods, blocking.

    Any number of threads may use one client. It runs one thread of its own, started by the first
    call and ended by ``close``, by the end of a ``with`` block, or with the client itself.

    Args:
        **: As in AsyncImagen; ``on_event`` is called in the client's own thread.

    Raises:
        ConfigurationError: If something is missing or cannot work; it says what to do.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        model: str | None = None,
        limits: Limits | None = None,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        ssl: ssl.SSLContext | None = None,
        allow_private: bool = False,
        idempotency: bool = True,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        self._client = AsyncImagen(
            base_url=base_url,
            api_key=api_key,
            model=model,
            limits=limits,
            retry=retry,
            timeouts=timeouts,
            headers=headers,
            proxy=proxy,
            trust_env=trust_env,
            ssl=ssl,
            allow_private=allow_private,
            idempotency=idempotency,
            on_event=on_event,
        )
        self._portal = Portal(self, self._client._core.aclose)  # noqa: SLF001

    def __enter__(self) -> Imagen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._client).removeprefix("Async")

    generate = _blocking(AsyncImagen.generate)
    generate_to = _blocking(AsyncImagen.generate_to)
    read = _blocking(AsyncImagen.read)
    save = _blocking(AsyncImagen.save)

    @functools.wraps(AsyncImagen.generate_many)
    def generate_many(
        self,
        prompts: Iterable[str | GenerationRequest] | AsyncIterable[str | GenerationRequest],
        *,
        ordered: bool = False,
    ) -> BlockingStream[str | GenerationRequest, Stream[str | GenerationRequest]]:
        """Generate images from many prompts; a context manager over outcomes."""
        return self._stream(
            prompts, functools.partial(self._client.generate_many, ordered=ordered)
        )

    def stats(self) -> Stats:
        """Return a snapshot of what this client did and is doing."""
        return self._client.stats()

    def close(self) -> None:
        """Refuse new calls, wait for those in flight at most 30 seconds, close all sockets."""
        self._portal.close(GRACE)

    def _stream(self, items: Any, open_stream: Callable[[Any], Any]) -> BlockingStream[Any, Any]:
        bound = self._client._core.config.limits.concurrency + AHEAD  # noqa: SLF001
        feed: Feed[Any] = Feed()
        if isinstance(items, AsyncIterable):
            return BlockingStream(self._portal, None, feed, open_stream(items), bound)
        return BlockingStream(self._portal, iter(items), feed, open_stream(feed), bound)
