"""The kind of task that the async side runs in."""

from __future__ import annotations

import asyncio
from typing import Any

from imagen_async.errors import ConfigurationError


def running_task() -> asyncio.Task[Any]:
    """Return the running task; every way in asks for it before it does anything.

    Raises:
        ConfigurationError: If it is none of asyncio's but, say, trio's.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is None:
        raise ConfigurationError(
            "AsyncImagen runs on asyncio, not on trio: start the program with asyncio.run(main()) "
            "or anyio.run(main, backend='asyncio')."
        )
    return task
