"""What commands that generate share: their flags, their client, their loop and its signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs

from imagen_async.blocking.portal import new_loop
from imagen_async.cli.console import note, warn, warnings_as_notes
from imagen_async.cli.progress import open_progress
from imagen_async.client import AsyncImagen
from imagen_async.errors import ConfigurationError
from imagen_async.policy.config import Limits, Timeouts
from imagen_async.policy.retry import RetryPolicy
from imagen_async.storage import disk
from imagen_async.wire.image_header import suffix
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator

    from imagen_async.cli.progress import Snapshot
    from imagen_async.session.events import Event
    from imagen_async.wire.image import Image

SIGTERM_GRACE: Final = 30.0
"""Seconds that what is in flight gets after a SIGTERM; supervisors kill soon after that."""
_FIELDS = ("model", "aspect_ratio", "response_format", "n")
_RETRY = ("max_attempts", "max_sends", "max_charges")


@attrs.frozen(kw_only=True)
class RequestFlags:
    """The flags of commands that generate, as ``commands`` names them."""

    model: str | None = None
    aspect_ratio: str | None = None
    response_format: str | None = None
    n: int | None = None
    base_url: str | None = None
    timeout: float | None = None
    max_attempts: int | None = None
    max_sends: int | None = None
    max_charges: int | None = None
    server_errors_free: bool = False
    key_honoured: bool = False
    header: tuple[str, ...] = ()
    proxy: str | None = None
    allow_private: bool = False
    emulator: bool = False
    as_json: bool = False
    settings: tuple[str, ...] = ()
    quiet: bool = False
    verbose: int = 0

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of each request that were given."""
        given = {name: getattr(self, name) for name in _FIELDS}
        given["extra"] = dict(map(_setting, self.settings)) or None
        return {name: value for name, value in given.items() if value is not None}

    @property
    def retry(self) -> RetryPolicy:
        """The client's policy: the flags that were given, else its own values."""
        given = {name: getattr(self, name) for name in _RETRY}
        return RetryPolicy(
            server_errors_charged=not self.server_errors_free,
            **{name: value for name, value in given.items() if value is not None},
        )

    @property
    def headers(self) -> dict[str, str]:
        """The headers by name.

        Raises:
            ConfigurationError: If one has no colon; its text is not shown, it may be a secret.
        """
        parts = [header.partition(":") for header in self.header]
        if any(not colon or not name.strip() for name, colon, _ in parts):
            raise ConfigurationError("--header must be NAME:VALUE, such as 'X-Team:art'.")
        return {name.strip(): value.strip() for name, _, value in parts}


def _setting(text: str) -> tuple[str, Any]:
    """Return the name and the value of a ``--set``."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or name.strip() == "prompt":
        raise ConfigurationError(
            "--set must be KEY=VALUE, such as size=1024x1024, and not the prompt."
        )
    try:
        return name.strip(), json.loads(value, parse_constant=int)  # which NaN is not: it is text
    except (ValueError, RecursionError):
        return name.strip(), value


@contextlib.asynccontextmanager
async def open_client(
    flags: RequestFlags,
    *,
    limits: Limits | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> AsyncIterator[AsyncImagen]:
    """Yield a client as the flags ask for, of an emulator's if they do.

    Raises:
        ConfigurationError: If they cannot work together.
    """
    if flags.emulator and flags.base_url is not None:
        raise ConfigurationError("--emulator and --base-url exclude each other; leave one out.")
    timeouts = Timeouts()
    if flags.timeout is not None:
        # A user who waits longer than one attempt may by default means the attempt.
        timeouts = Timeouts(total=flags.timeout, answer=flags.timeout)
    async with contextlib.AsyncExitStack() as stack:
        base_url = flags.base_url
        if flags.emulator:
            from imagen_async.emulator import Emulator

            base_url = (await stack.enter_async_context(Emulator())).base_url
            note("emulator: pictures are drawn here, nothing is bought")
        with warnings_as_notes():
            imagen = AsyncImagen(
                base_url=base_url,
                api_key="" if flags.emulator else None,
                model=flags.model,
                limits=limits,
                retry=flags.retry,
                timeouts=timeouts,
                headers=flags.headers,
                proxy=flags.proxy,
                allow_private=flags.allow_private or flags.emulator,
                key_honoured=flags.key_honoured,
                on_event=on_event,
            )
        yield await stack.enter_async_context(imagen)


@contextlib.contextmanager
def shown(flags: RequestFlags, look: Callable[[], Snapshot | str]) -> Iterator[int | None]:
    """Show every now and then how a block goes; yield the columns of the terminal, if there is one.

    Args:
        flags: Of the command.
        look: Returns a moment.
    """
    progress = open_progress(os.environ.get, quiet=flags.quiet)

    async def tick() -> None:
        if progress.width is None:
            await asyncio.sleep(progress.every)
        while True:
            progress.show(look())
            await asyncio.sleep(progress.every)

    ticker = asyncio.create_task(tick())
    try:
        yield progress.width
    finally:
        ticker.cancel()
        progress.close()


def keep_bytes(images: Iterable[Image]) -> None:
    """Write images that are paid for, and in memory alone, to where temporary files go."""
    for image in images:
        if image.data is None or image.path is not None:
            continue
        try:
            folder = Path(tempfile.mkdtemp(prefix="imagen-async-"))
            path = folder / f"image{suffix(image.media_type)}"
            path.write_bytes(image.data)
        except disk.TROUBLE as error:
            warn(f"Note: paid for, and not to be kept anywhere: {disk.reason(error)}.")
        else:
            warn(f"Note: paid for, and kept in {printable(str(path))}.")


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine to its end, on uvloop if it is installed."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


@attrs.define(eq=False)
class Interrupts:
    """How often SIGINT or SIGTERM came."""

    count: int = 0


@contextlib.contextmanager
def interruptible(stop: Callable[[], int]) -> Iterator[Interrupts]:
    """Let the first signal stop the block and the second one cancel it.

    Args:
        stop: Sends nothing more and returns how many calls are in flight and go on.
    """
    heard = Interrupts()

    def hear(number: int) -> None:
        heard.count += 1
        if heard.count > 1:
            scope.cancel()
            return
        warn(
            f"Interrupted: what is in flight ({stop()}) is paid for and will be finished; "
            "Ctrl-C again cancels it."
        )
        if number == signal.SIGTERM:
            asyncio.get_running_loop().call_later(SIGTERM_GRACE, scope.cancel)

    with anyio.CancelScope() as scope, on_signals(hear):
        yield heard


@contextlib.contextmanager
def on_signals(act: Callable[[int], object]) -> Iterator[None]:
    """Call a function on the running loop for each SIGINT and SIGTERM."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in numbers:
            loop.add_signal_handler(number, act, number)
    except NotImplementedError:  # Windows
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            signal.signal(number, lambda got, _: loop.call_soon_threadsafe(act, got))
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, before[number])
    else:
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
