"""The kind of event loop that the async side runs on."""

from __future__ import annotations

import asyncio

from imagen_async.errors import ConfigurationError


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of the running task; every way in asks for it before it does anything.

    Raises:
        ConfigurationError: If the task is none of asyncio's but, say, trio's.
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
    return asyncio.get_running_loop()
