"""A client beside a chaos server, and a look at what is left when both are gone."""

import asyncio
import gc
import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from imagen_async import (
    AsyncImagen,
    Cancelled,
    Done,
    Downloaded,
    Event,
    Failed,
    Limits,
    Queued,
    RetryPolicy,
    Timeouts,
)
from tests.chaos.server import ChaosServer, serving

KEY = "sk-canary-7f3a9c"
QUICK = RetryPolicy(backoff_base=0.002, backoff_cap=0.01)
SHORT = Timeouts(total=20, connect=5, answer=0.15)
"""For faults of silence; nothing else waits for it."""

gc.freeze()  # what pytest and its modules hold is no leak of a test


def descriptors() -> int | None:
    """Return how many files and sockets this process has open; None where nobody can tell."""
    for folder in map(Path, ("/proc/self/fd", "/dev/fd")):
        if folder.is_dir():
            return len(list(folder.iterdir()))
    return None


def holdings() -> tuple[int | None, int, int]:
    """Return the open descriptors, the tasks of the running loop, and the threads.

    AnyIO's threads do not count: it keeps a few until the loop ends, for the next file.
    """
    gc.collect()
    threads = [one for one in threading.enumerate() if not one.name.startswith("AnyIO")]
    return descriptors(), len(asyncio.all_tasks()), len(threads)


@asynccontextmanager
async def leakless() -> AsyncIterator[None]:
    """Hold the block to leaving no descriptor, task or thread; forgotten sockets warn."""
    before = holdings()
    yield
    for _ in range(20):
        await asyncio.sleep(0)
        if holdings() == before:
            return
        await asyncio.sleep(0.01)
    assert holdings() == before


_ENDS = (Done, Failed, Cancelled)


class Watch:
    """A listener that holds each call to a beginning and one end."""

    def __init__(self) -> None:
        self.calls: defaultdict[int, list[Event]] = defaultdict(list)

    def __call__(self, event: Event) -> None:
        self.calls[event.call_id].append(event)

    @property
    def ends(self) -> list[Done | Failed | Cancelled]:
        """How calls ended, in the order of their beginning."""
        told = [event for call in self.calls.values() for event in call]
        return [event for event in told if isinstance(event, _ENDS)]

    @property
    def wrong(self) -> list[list[Event]]:
        """Calls that did not begin as queued, or have not one end, or something after it."""
        return [call for call in self.calls.values() if not _whole(call)]


def _whole(call: list[Event]) -> bool:
    begins = [place for place, event in enumerate(call) if isinstance(event, Queued)]
    ends = [place for place, event in enumerate(call) if isinstance(event, _ENDS)]
    if all(isinstance(event, Downloaded) for event in call):
        return True  # links of an answer that an earlier run paid for
    return (begins, ends) == ([0], [len(call) - 1])


def client(base_url: str, **options: Any) -> AsyncImagen:
    """Return a client that waits little."""
    options = {"api_key": KEY, "retry": QUICK, "limits": Limits(concurrency=50)} | options
    return AsyncImagen(base_url=base_url, **options)


@asynccontextmanager
async def chaos(
    *args: Any, context: Any = None, options: Any = None, **kwargs: Any
) -> AsyncIterator[tuple[ChaosServer, AsyncImagen]]:
    """Run a chaos server and a client; both must be gone without a trace afterwards.

    Args:
        *args: Of ChaosServer.
        context: The server's TLS context.
        options: Of the client.
        **kwargs: Of ChaosServer.
    """
    async with (
        leakless(),
        serving(*args, context=context, **kwargs) as server,
        client(server.base_url, **(options or {})) as imagen,
    ):
        yield server, imagen
        stats = imagen.stats()
        assert (stats.in_flight, stats.queued) == (0, 0)
