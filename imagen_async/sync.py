"""Imagen: AsyncImagen for code that blocks."""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from imagen_async.blocking.portal import Portal
from imagen_async.blocking.run import BlockingRun
from imagen_async.blocking.stream import BlockingStream
from imagen_async.client import AsyncImagen
from imagen_async.policy.config import Masked
from imagen_async.session.lifecycle import GRACE
from imagen_async.session.stream import AHEAD

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from imagen_async.batch.intake import OnUnknown
    from imagen_async.batch.prompts import Requests
    from imagen_async.batch.shards import Shard
    from imagen_async.policy.config import Limits, Timeouts
    from imagen_async.policy.retry import RetryPolicy
    from imagen_async.session.events import OnEvent
    from imagen_async.session.stats import Stats
    from imagen_async.session.stream import Stream
    from imagen_async.wire.request import GenerationRequest

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., object]")


def _documented(method: Callable[..., object]) -> Callable[[F], F]:
    def documented(blocking: F) -> F:
        blocking.__doc__ = method.__doc__
        return blocking

    return documented


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
    call and ended by ``close``, by the end of a ``with`` block, or with the client itself. Ctrl-C
    cancels the call it meets and leaves the client usable; a second one does not wait for that.

    Its arguments are those of AsyncImagen; ``on_event`` is called in the client's own thread.

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
        key_honoured: bool = False,
        on_event: OnEvent | None = None,
    ) -> None:
        if api_key is not None:
            api_key = Masked(api_key)  # if a setting is refused, this frame may be shown
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
            key_honoured=key_honoured,
            on_event=on_event,
        )
        self._portal = Portal(self._client._core.aclose)  # noqa: SLF001
        weakref.finalize(self, self._portal.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        client = getattr(self, "_client", None)  # a traceback may show one that was refused
        return repr(client).removeprefix("Async") if client else "Imagen(base_url=None)"

    generate: Final = _blocking(AsyncImagen.generate)
    generate_to: Final = _blocking(AsyncImagen.generate_to)
    read: Final = _blocking(AsyncImagen.read)
    save: Final = _blocking(AsyncImagen.save)
    settle: Final = _blocking(AsyncImagen.settle)

    @_documented(AsyncImagen.generate_many)
    def generate_many(  # noqa: D102
        self,
        prompts: Iterable[str | GenerationRequest] | AsyncIterable[str | GenerationRequest],
        *,
        ordered: bool = False,
        give_up_after: float | None = None,
    ) -> BlockingStream[Stream[str | GenerationRequest]]:
        return BlockingStream(
            self,
            self._portal,
            prompts,
            functools.partial(
                self._client.generate_many, ordered=ordered, give_up_after=give_up_after
            ),
            self._bound,
            dropped=self._client._core.drop,  # noqa: SLF001
        )

    @_documented(AsyncImagen.batch)
    def batch(  # noqa: D102
        self,
        prompts: Requests,
        *,
        out: str | os.PathLike[str],
        ordered: bool = False,
        on_unknown: OnUnknown = "hold",
        retry_failed: bool = False,
        limit: int | None = None,
        defaults: Mapping[str, Any] | None = None,
        new_options: bool = False,
        price_per_image: float | None = None,
        budget: float | None = None,
        max_failures: int | None = None,
        give_up_after: float | None = None,
        emulator: bool = False,
        gallery: bool = True,
        shard: Shard | None = None,
    ) -> BlockingRun:
        open_run = functools.partial(
            self._client.batch,
            out=out,
            ordered=ordered,
            on_unknown=on_unknown,
            retry_failed=retry_failed,
            limit=limit,
            defaults=defaults,
            new_options=new_options,
            price_per_image=price_per_image,
            budget=budget,
            max_failures=max_failures,
            give_up_after=give_up_after,
            emulator=emulator,
            gallery=gallery,
            shard=shard and shard.reading(prompts),
        )
        return BlockingRun(self, self._portal, prompts, open_run, self._bound, limit=limit)

    def stats(self) -> Stats:
        """Return a snapshot of what this client did and is doing."""
        return self._client.stats()

    def close(self) -> None:
        """Refuse new calls, wait for those in flight at most 30 seconds, close all sockets."""
        self._portal.close(GRACE)

    @property
    def _bound(self) -> int:
        return self._client._core.config.limits.concurrency + AHEAD  # noqa: SLF001
