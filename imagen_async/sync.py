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
    from collections.abc import Callable, Coroutine
    from typing import Self

    from imagen_async.session.stats import Stats
    from imagen_async.session.stream import Stream
    from imagen_async.wire.request import GenerationRequest

P = ParamSpec("P")
T = TypeVar("T")


def _like(
    method: Callable[Concatenate[AsyncImagen, P], object],
) -> Callable[[Callable[..., T]], Callable[Concatenate[Imagen, P], T]]:
    """Give a method the parameters and the words of AsyncImagen's."""
    return functools.partial(
        functools.update_wrapper, wrapped=method, assigned=("__doc__", "__annotations__")
    )


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

    @_like(AsyncImagen.__init__)
    def __init__(self, **options: Any) -> None:
        if options.get("api_key") is not None:
            options["api_key"] = Masked(options["api_key"])  # as AsyncImagen does, and why
        self._client = AsyncImagen(**options)
        self._portal = Portal(self._client._core.aclose)  # noqa: SLF001
        weakref.finalize(self, self._portal.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        client = getattr(self, "_client", None)  # a traceback may show one that was refused
        return repr(client).removeprefix("Async") if client else "Imagen(base_url=None)"

    generate: Final = _blocking(AsyncImagen.generate)
    generate_to: Final = _blocking(AsyncImagen.generate_to)
    read: Final = _blocking(AsyncImagen.read)
    save: Final = _blocking(AsyncImagen.save)
    settle: Final = _blocking(AsyncImagen.settle)

    @_like(AsyncImagen.generate_many)
    def generate_many(  # noqa: D102
        self, prompts: Any, **options: Any
    ) -> BlockingStream[Stream[str | GenerationRequest]]:
        return BlockingStream(
            self,
            self._portal,
            prompts,
            functools.partial(self._client.generate_many, **options),
            self._bound,
            dropped=self._client._core.drop,  # noqa: SLF001
        )

    @_like(AsyncImagen.batch)
    def batch(self, prompts: Any, **options: Any) -> BlockingRun:  # noqa: D102
        if options.get("shard"):
            options["shard"] = options["shard"].reading(prompts)
        open_run = functools.partial(self._client.batch, **options)
        limit = options.get("limit")
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
