"""An asyncio event loop whose clock jumps: a wait of an hour takes as long as one of nothing."""

import asyncio
import functools
import inspect
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TICK = 1e-9
"""Seconds that pass in every turn of the loop."""
DEADLOCK = 5.0
"""Real seconds after which a loop that waits for nothing at all is called dead."""


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Looks at the sockets; if they are silent, lets the wanted time pass at once."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            events = super().select(DEADLOCK)
            if not events:
                raise RuntimeError("every task waits, and no timer is set")
            return events
        events = super().select(0)
        if not events:
            # Never quite nothing: a wait of less than the clock can tell must end too.
            self.now += max(timeout, TICK)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop of its own time; ``jump`` makes the clock run ahead, as after a suspended night.

    Threads and other processes live in real time: a test that waits for one may see hours pass.
    """

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def jump(self, seconds: float) -> None:
        self._jumping.now += seconds


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time; every task must have ended with it."""

    async def alone() -> T:
        result = await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(alone())


def now() -> float:
    """Return the running loop's time in seconds."""
    return asyncio.get_running_loop().time()


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test's coroutine function in virtual time, under a known seed."""

    @functools.wraps(test)
    def plain(*args: Any, **kwargs: Any) -> None:
        random.seed(20)
        run(test(*args, **kwargs))

    del plain.__wrapped__  # type: ignore[attr-defined]
    plain.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return plain
