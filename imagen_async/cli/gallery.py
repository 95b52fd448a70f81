"""``imagen-async gallery``: the page over a batch's folder, written or served."""

from __future__ import annotations

import asyncio
import threading
import webbrowser
from pathlib import Path

from imagen_async.batch.gallery import views, write_gallery
from imagen_async.cli.client import on_signals, run_loop
from imagen_async.cli.console import note, result
from imagen_async.cli.exits import DONE
from imagen_async.errors import ConfigurationError
from imagen_async.storage import disk


def gallery(folder: str, *, live: bool, show: bool) -> int:
    """Write a gallery and print its path, or serve it and print its address.

    Raises:
        ConfigurationError: If the folder holds no batch, if the disk does not take the page, or if
            nothing can listen on loopback.
    """
    if live:
        views.check(Path(folder))
        return run_loop(_serve(Path(folder), show=show))
    try:
        page = write_gallery(Path(folder), ended=False)
    except OSError as error:
        raise ConfigurationError(f"{disk.cannot_write(Path(folder), error)}.") from None
    result(str(page))
    if show:
        open_page(page.absolute().as_uri())
    return DONE


def open_page(address: str) -> None:
    """Open an address in the user's browser, if there is one."""
    if not webbrowser.open(address):
        note("No browser could be opened.")


def open_meanwhile(address: str) -> None:
    """Open an address while the loop goes on; a browser that never returns holds up nothing."""
    threading.Thread(target=open_page, args=(address,), daemon=True).start()


async def _serve(folder: Path, *, show: bool) -> int:
    from imagen_async.batch.gallery.live import LiveGallery

    ended = asyncio.Event()
    with on_signals(lambda _: ended.set()):
        async with LiveGallery(folder) as served:
            result(served.url)
            note("Anyone with this address on this machine can see the images; Ctrl-C ends it.")
            if show:
                open_meanwhile(served.url)
            await ended.wait()
    return DONE
